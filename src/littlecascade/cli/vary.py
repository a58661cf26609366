"""`littlecascade vary`: new pictures of what pictures show, or of a mixture of several."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from littlecascade.cli import drawing_options as options
from littlecascade.cli import parser as values
from littlecascade.cli.drawing import Job, draw
from littlecascade.errors import InputError

if TYPE_CHECKING:
    from littlecascade.cli.parser import Parser

_WEIGHTS = options.Setting(
    values.numbers,
    "how much each picture counts, such as 1,0.5; negative ones (--weights=-1,2) lead away",
    "W1,W2",
    plots=False,
)
_SETTINGS = {"weights": _WEIGHTS} | options.BACKGROUND | options.WORDS


def add_parser(subparsers: Any, **keywords: Any) -> Parser:
    """Declare the subcommand and its options."""
    parser: Parser = subparsers.add_parser(
        "vary",
        usage="%(prog)s IMAGE... [options]",
        help="draw new pictures of what pictures show",
        description="Draw new pictures of what a picture shows, or of a mixture of several, with or without words.",
        **keywords,
    )
    parser.add_argument("pictures", metavar="IMAGE", nargs="*", help="picture files")
    parser.add_argument("--prompt", help="words that also say what to draw")
    options.add_words(parser, _SETTINGS)
    return parser


def run(args: Namespace) -> int:
    """Draw, save and print the path of every picture, one a line."""
    prompts = [] if args.prompt is None else [args.prompt]
    job = Job.of(args, "vary", _SETTINGS, pictures=args.pictures, prompts=prompts)
    if not job.pictures:
        raise InputError("there is no picture to vary. Give one: littlecascade vary apple.png")
    return draw(args, job if job.prompts else replace(job, prompts=[""]))
