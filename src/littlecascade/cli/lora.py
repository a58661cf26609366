"""`littlecascade lora`: what a file of a LoRA is, other formats, into weights, and out of them."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littlecascade.cli import parser as values

if TYPE_CHECKING:
    from littlecascade.adapters.files import Adapter
    from littlecascade.cli.parser import Parser

_FORMATS = ("official", "onetrainer", "kohya", "comfy", "peft", "embedding")
_DTYPES = ("float32", "bfloat16", "float16")


def add_parser(subparsers: Any, **keywords: Any) -> Parser:
    """Declare the subcommand, its own subcommands and their options."""
    parser: Parser = subparsers.add_parser(
        "lora",
        help="show, convert, merge and extract LoRAs",
        description="Files of LoRAs and learned tokens. To draw with one: littlecascade generate ... --lora FILE",
        **keywords,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)

    def add(name: str, text: str) -> Parser:
        return actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", **keywords)

    show = add("show", "say what a LoRA is, and which networks it fits")
    show.add_argument("files", metavar="FILE", nargs="+", type=Path, help="files of any format, or folders of PEFT's")
    _add_reading(show)

    convert = add("convert", "write a LoRA in another format")
    convert.add_argument("source", metavar="FILE", type=Path, help="a file of any format, or a folder of PEFT's")
    convert.add_argument("target", metavar="TARGET", type=Path, help="a new file; for peft also a new folder")
    convert.add_argument("--to", choices=_FORMATS, required=True, help="the format")
    convert.add_argument("--dtype", choices=_DTYPES, help="number format (default: as it is)")
    convert.add_argument("--without-tokens", action="store_true", help="leave learned tokens out")
    _add_reading(convert)

    merge = add("merge", "write a file of weights with LoRAs in it")
    merge.add_argument("source", metavar="WEIGHTS", type=Path, help="of Stage C, Stage B or a text tower")
    merge.add_argument("target", metavar="TARGET", type=Path, help="a new .safetensors file")
    merge.add_argument(
        "--lora",
        dest="adapters",
        metavar="FILE[:SCALE]",
        action="append",
        required=True,
        type=values.lora,
        help="a LoRA and its scale (default 1); again for further ones",
    )

    extract = add("extract", "write the LoRA that is nearest to the difference of two files of weights")
    extract.add_argument("base", metavar="BASE", type=Path, help="weights before a training")
    extract.add_argument("tuned", metavar="TUNED", type=Path, help="weights after it")
    extract.add_argument("target", metavar="TARGET", type=Path, help="a new file")
    extract.add_argument("--rank", type=values.count, default=16, help="of the LoRA (default 16)")
    extract.add_argument("--to", choices=_FORMATS[:-1], default="comfy", help="its format (default comfy)")
    _add_filter(extract, "modules to look at (default .attn)")
    return parser


def run(args: Namespace) -> int:
    """Run one of the actions."""
    actions: dict[str, Callable[[Namespace], int]] = {
        "show": _show,
        "convert": _convert,
        "merge": _merge,
        "extract": _extract,
    }
    return actions[args.action](args)


def _add_reading(parser: Parser) -> None:
    """What a file may not say of itself."""
    parser.add_argument("--model", help="what it is for, if that has no named size: a folder, or files of weights")
    parser.add_argument(
        "--token",
        dest="tokens",
        metavar="TOKEN[=REGEX]",
        action="append",
        type=_token,
        help="a token that an official file was trained with, as its train_tokens has it: '[fernando]=^dog</w>'",
    )
    _add_filter(parser, "modules that an official file was trained on, as its module_filters has them (default .attn)")


def _add_filter(parser: Parser, text: str) -> None:
    parser.add_argument("--filter", dest="filters", metavar="TEXT", action="append", help=f"{text}; or re:REGEX")


def _token(text: str) -> tuple[str, str | None]:
    """A pair of `train_tokens`.

    >>> _token("[fernando]=^dog</w>"), _token("^snail")
    (('[fernando]', '^dog</w>'), ('^snail', None))
    """
    name, equals, like = text.partition("=")
    return (name, like) if equals and name[:1] in "[<" else (text, None)


def _adapter(path: Path, args: Namespace) -> Adapter:
    from littlecascade import Adapter

    return Adapter.load(path, tokens=args.tokens, filters=args.filters)


def _show(args: Namespace) -> int:
    from littlecascade.pipelines.lora import describe_adapter

    texts: list[str] = []
    for path in args.files:
        facts = describe_adapter(_adapter(path, args), args.model)
        texts.append("\n".join(f"{name + ':':9}{text}" for name, text in facts.items()))
    print("\n\n".join(texts))
    return 0


def _convert(args: Namespace) -> int:
    import torch

    from littlecascade.pipelines.lora import convert_adapter

    dtype = getattr(torch, args.dtype) if args.dtype else None
    adapter, with_tokens = _adapter(args.source, args), not args.without_tokens
    print(convert_adapter(adapter, args.target, args.to, model=args.model, with_tokens=with_tokens, dtype=dtype))
    return 0


def _merge(args: Namespace) -> int:
    from littlecascade import Adapter
    from littlecascade.pipelines.lora import merge_adapters

    adapters = [Adapter.load(path, scale=scale, steps=steps) for path, scale, steps in args.adapters]
    for remark in merge_adapters(args.source, adapters, args.target):
        print(f"littlecascade: {remark}", file=sys.stderr)
    print(args.target)
    return 0


def _extract(args: Namespace) -> int:
    from littlecascade.adapters.sites import OFFICIAL
    from littlecascade.pipelines.lora import extract_adapter

    kept = extract_adapter(
        args.base, args.tuned, args.target, args.to, rank=args.rank, filters=args.filters or OFFICIAL
    )
    print(f"{args.target} holds {kept:.1%} of the squared difference")
    return 0
