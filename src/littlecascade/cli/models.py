"""`littlecascade models`: which weights are here, fetching, checking and converting them, and saying what a file is."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littlecascade.errors import InputError

if TYPE_CHECKING:
    from littlecascade.checkpoint.download import Item
    from littlecascade.cli.parser import Parser

_DTYPES = ("float32", "bfloat16", "float16")
_FORMATS = ("official", "diffusers", "comfy", "own")
_LONGEST = 60  # signs of a note that are shown
_MODEL = "a size, a folder, or files of weights and configurations (.yaml), comma-separated"


def add_parser(subparsers: Any, **keywords: Any) -> Parser:
    """Declare the subcommand, its own subcommands and their options."""
    parser: Parser = subparsers.add_parser(
        "models",
        help="list, download, check and convert weights",
        description="Weights: what is installed, what is missing, what a file is.",
        **keywords,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)

    def add(name: str, text: str) -> Parser:
        return actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", **keywords)

    add("list", "say which models are installed, where, and how much room they take")

    download = add("download", "fetch the official weights and towers of a size into the Hugging Face cache")
    download.add_argument("size", metavar="SIZE", help="lite (1B and 700M) or full (3.6B and 3B)")
    download.add_argument("--precision", choices=_DTYPES[:2], default="bfloat16", help="of Stage B and C")
    download.add_argument("--only", metavar="PART", nargs="+", help="fetch these parts alone; controlnet is one, too")
    download.add_argument("--token", help="of the Hugging Face hub (default: HF_TOKEN, or the one you logged in with)")
    download.add_argument("--accept-licence", action="store_true", help="accept the licence without being asked")

    verify = add("verify", "say for every command whether what it needs is there, whole and of one size")
    verify.add_argument("model", metavar="MODEL", nargs="?", default="tiny", help=f"{_MODEL} (default tiny)")
    verify.add_argument("--hashes", action="store_true", help="hold downloaded files against their hashes, too")

    convert = add("convert", "write a model, or a single file of one, in another format")
    convert.add_argument("source", metavar="SOURCE", help=f"{_MODEL}; one weight file is converted alone")
    convert.add_argument("target", metavar="TARGET", type=Path, help="a new folder, or a new .safetensors file")
    convert.add_argument("--to", choices=_FORMATS, required=True, help="the format")
    convert.add_argument("--dtype", choices=_DTYPES, help="number format of the weights (default: as they are)")

    show = add("show", "say what a weight file is")
    show.add_argument("files", metavar="FILE", nargs="+", type=Path, help="weight files, or indices of shards")
    return parser


def run(args: Namespace) -> int:
    """Run one of the actions. `verify` returns 1 if something that a command needs is not there."""
    actions: dict[str, Callable[[Namespace], int]] = {
        "list": _list,
        "download": _download,
        "verify": _verify,
        "convert": _convert,
        "show": _show,
    }
    return actions[args.action](args)


def _list(args: Namespace) -> int:
    from littlecascade.checkpoint import places
    from littlecascade.pipelines.model import Model
    from littlecascade.presets import PRESETS

    rows = [("MODEL", "PARTS", "NUMBERS", "ON DISK", "WHERE")]
    for name in (*PRESETS, *(folder.name for folder in places.finetunes())):
        try:
            parts = Model.find(name).inventory.parts
        except InputError as error:
            rows.append((name, "-", "-", "-", str(error)))
            continue
        files = {path for part in parts.values() for path in part.header.files}
        numbers = sorted({_numbers(part.dtype) for part in parts.values()})
        size = sum(path.stat().st_size for path in files)
        homes = _homes(files) or f"'littlecascade models download {name}' fetches it"
        rows.append((name, str(len(parts)), ", ".join(numbers) or "-", _bytes(size) if files else "-", homes))
    print(_table(rows))
    print(f"\nYour own files are looked for in {places.models('SIZE')}, downloaded ones in the Hugging Face cache.")
    return 0


def _homes(files: set[Path]) -> str:
    """The folders that hold files, without those in one another."""
    folders = {path.parent for path in files}
    return ", ".join(sorted(str(folder) for folder in folders if not folders & set(folder.parents)))


def _download(args: Namespace) -> int:
    from littlecascade.checkpoint import download, places
    from littlecascade.presets import find_preset

    size = find_preset(args.size).name
    if size not in places.STAGES:
        raise InputError(f"{size} is part of the package, so there is nothing to download.")
    items = download.plan(size, args.precision, args.only or download.PARTS, token=args.token)
    print(f"{len(items)} files, {_bytes(sum(item.size for item in items))}")
    _agree(items, accepted=args.accept_licence)
    download.fetch(items, token=args.token)
    print(f"'littlecascade models verify {size}' says what can be drawn with them.")
    return 0


def _agree(items: Sequence[Item], *, accepted: bool) -> None:
    """Show the licences, and have those accepted that ask for it. Raises `InputError` if they are not."""
    from littlecascade.checkpoint.download import LICENCES

    licences = {item.repository: LICENCES[item.repository] for item in items}
    for repository, licence in licences.items():
        print(f"{repository}: {licence.name} ({licence.note})\n  {licence.url}")
    if accepted or not any(licence.ask for licence in licences.values()):
        return
    if not sys.stdin.isatty():
        raise InputError("the licence has to be accepted: read it, and give --accept-licence.")
    if input("Do you accept it? Type yes: ").strip().lower() not in ("y", "yes"):
        raise InputError("the licence was not accepted; nothing was downloaded.")


def _verify(args: Namespace) -> int:
    from littlecascade.checkpoint import places
    from littlecascade.pipelines.model import Model
    from littlecascade.pipelines.survey import NEEDS, PARTS, missing, named, survey

    model = Model.find(args.model)
    findings = survey(model, hashes=args.hashes)
    rows = [("PART", "STATE", "SIZE", "NUMBERS", "ON DISK", "NEEDED BY", "WHERE")]
    for found in findings:
        part = found.part
        users = ", ".join(command for command, needs in NEEDS.items() if found.role in needs) or "live previews"
        numbers, room = (_numbers(part.dtype), _bytes(part.size)) if part else ("-", "-")
        where = "; ".join(filter(None, (str(found.path or ""), found.detail))) or "-"
        rows.append((found.role, found.state, named(found), numbers, room, users, where))
    lacking = {command: missing(findings, command) for command in NEEDS}
    print(_table(rows) + "\n")
    for command, parts in lacking.items():
        print(f"{command}: {'lacks ' + ', '.join(parts) if parts else 'ready'}")
    lost = {part for parts in lacking.values() for part in parts}
    if lost and model.size in places.STAGES:
        wanted = [part for part in PARTS if part in lost - ({"tokenizer"} if "text" in lost else set())]
        print(f"\n'littlecascade models download {model.size} --only {' '.join(wanted)}' fetches what is not there.")
    return 1 if lost else 0


def _convert(args: Namespace) -> int:
    import torch

    from littlecascade.pipelines.conversion import convert_model

    dtype = getattr(torch, args.dtype) if args.dtype else None
    for path in convert_model(args.source, args.target, args.to, dtype=dtype):
        print(f"{path}  {_bytes(path.stat().st_size)}")
    return 0


def _show(args: Namespace) -> int:
    from littlecascade.pipelines.inventory import parts_of

    print("\n\n".join(_table(_facts(part), gap=": ") for path in args.files for part in parts_of(path)))
    return 0


def _facts(part: Any) -> list[tuple[str, ...]]:
    """What `show` says of a part, by name."""
    from littlecascade.checkpoint import places
    from littlecascade.checkpoint.download import LICENCES
    from littlecascade.pipelines.inventory import sizes

    alike = sizes(part)
    licence = LICENCES[places.TOWERS.get(part.role, places.CASCADE)]
    cards = [name for name in ("MODEL_CARD.md", "README.md") if (part.path.parent / name).is_file()]
    facts = {
        "file": str(part.path),
        "part": part.role,
        "size": " or ".join(alike) or "of no named size",
        "format": part.format,
        "parameters": f"{part.parameters:,} in {len(part.outline):,} tensors",
        "numbers": f"{_numbers(part.dtype)}, {_bytes(part.size)}",
        "configuration": "stored with the weights" if part.told else "told by the shapes" if part.config else "unknown",
        "notes": ", ".join(f"{name}={text[:_LONGEST]}" for name, text in part.notes.items()),
        "card": ", ".join(str(part.path.parent / name) for name in cards),
        "licence": f"as published: {licence.name}, {licence.url}" if set(alike) & set(places.STAGES) else "",
    }
    return [(name, text) for name, text in facts.items() if text]


def _numbers(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _bytes(count: float) -> str:
    """A number of bytes as people read it: `26.9 MB`."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _table(rows: Sequence[Sequence[str]], gap: str = "  ") -> str:
    """Rows as lines, each column as wide as its widest entry, the last one as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        gap.join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1]]) for row in rows
    )
