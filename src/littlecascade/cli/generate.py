"""`littlecascade generate`: pictures from words, each with the recipe that draws it again."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littlecascade.cli import parser as values
from littlecascade.cli.files import plan_outputs, stem_of
from littlecascade.errors import InputError

if TYPE_CHECKING:
    from littlecascade.cli.parser import Parser

_DEFAULT_MODEL = "tiny"
_SETTINGS = ("negative", "seed", "size", "steps", "sampler", "guidance")
"""Options that are keyword arguments of `Cascade.generate` and keys of a recipe, under the same names."""


def add_parser(subparsers: Any, **keywords: Any) -> Parser:
    """Declare the subcommand and its options."""
    parser: Parser = subparsers.add_parser(
        "generate",
        help="draw pictures from words",
        description="Draw pictures from words. Each is a PNG that carries its recipe: --from draws it again.",
        **keywords,
    )
    parser.add_argument("prompts", metavar="PROMPT", nargs="*", help="what to draw; each quoted prompt is a picture")
    parser.add_argument("-n", dest="number", type=values.count, default=1, help="pictures of each prompt (default 1)")
    parser.add_argument("--seed", type=values.seed, help="seed of the first picture; the next ones count up from it")
    parser.add_argument("--size", metavar="WxH", type=values.size, help="width and height in pixels")
    parser.add_argument("--steps", type=values.count, help="sampling steps of Stage C")
    parser.add_argument("--sampler", help="how Stage C walks from noise to picture: ddpm, ddim, dpmpp_2m, ...")
    parser.add_argument("--guidance", type=values.number, help="how strictly to follow the prompt; 1 is no guidance")
    parser.add_argument("--negative", metavar="PROMPT", help="what to keep away from")
    parser.add_argument("--model", help=f"which cascade draws (default {_DEFAULT_MODEL})")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="PICTURE",
        type=Path,
        help="take every setting that is not given here, and the prompt, from a picture's recipe",
    )
    parser.add_argument("-o", "--output", metavar="FILE|FOLDER", help="a .png file, or a folder (default: this one)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--no-preview", action="store_true", help="show no picture in the terminal while drawing")
    return parser


def run(args: Namespace) -> int:
    """Draw, save and print the path of every picture, one a line."""
    from littlecascade.recipe import read_recipe, save_png

    recipe = {} if args.source is None else read_recipe(args.source)
    prompts = _prompts(args.prompts, recipe)
    stems = [stem_of(prompt) for prompt in prompts for _ in range(args.number)]
    paths = plan_outputs(args.output, stems, overwrite=args.overwrite)

    from littlecascade import Cascade
    from littlecascade.cli.progress import Progress

    model = args.model or recipe.get("model", _DEFAULT_MODEL)
    cascade = Cascade.load(model, precision=recipe.get("precision", "auto"))
    with Progress(sys.stderr, pictures=not args.no_preview) as progress:
        result = cascade.generate(prompts, n=args.number, callback=progress, **_settings(args, recipe))
    for image, drawn, path in zip(result.images, result.recipes, paths, strict=True):
        save_png(image, path, drawn)
        print(path)
    digest = result.recipes[0]["model_digest"]
    if not args.model and recipe.get("model_digest", digest) != digest:
        print(f"littlecascade: {args.source} was drawn with other weights of {model!r}", file=sys.stderr)
    return 0


def _prompts(given: list[str], recipe: Mapping[str, Any]) -> list[str]:
    prompts = given or ([recipe["prompt"]] if "prompt" in recipe else [])
    if not prompts:
        raise InputError('there is no prompt. Give one, in quotes: littlecascade generate "a red apple"')
    if not all(prompt.strip() for prompt in prompts):
        print("littlecascade: an empty prompt draws whatever comes up", file=sys.stderr)
    return prompts


def _settings(args: Namespace, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's settings, overruled by those given on the command line; the model's defaults stand for the rest."""
    given = {name: getattr(args, name) for name in _SETTINGS if getattr(args, name) is not None}
    stored = {name: recipe[name] for name in _SETTINGS if name in recipe}
    if "size" in stored:
        stored["size"] = tuple(stored["size"])  # JSON has lists only
    return stored | given
