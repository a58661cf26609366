"""`littlecascade edit`: a picture drawn anew, as far as it is asked to change."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from littlecascade.cli import drawing_options as options
from littlecascade.cli import parser as values
from littlecascade.cli.drawing import Job, draw
from littlecascade.errors import InputError

if TYPE_CHECKING:
    from littlecascade.cli.parser import Parser

_STRENGTH = options.Setting(values.strength, "how much may change: near 0 the same picture, 1 a new one (default 0.7)")
_SETTINGS = {"strength": _STRENGTH} | options.BACKGROUND | options.WORDS


def add_parser(subparsers: Any, **keywords: Any) -> Parser:
    """Declare the subcommand and its options."""
    parser: Parser = subparsers.add_parser(
        "edit",
        usage="%(prog)s IMAGE PROMPT... [options]",
        help="draw a picture anew from words",
        description="Draw a picture anew from words, on top of what it shows. Without --size the result has its shape.",
        **keywords,
    )
    parser.add_argument("picture", metavar="IMAGE", nargs="?", help="a picture file")
    parser.add_argument("prompts", metavar="PROMPT", nargs="*", help="what it becomes; each quoted prompt is a picture")
    options.add_words(parser, _SETTINGS)
    return parser


def run(args: Namespace) -> int:
    """Draw, save and print the path of every picture, one a line."""
    pictures = [] if args.picture is None else [args.picture]
    job = Job.of(args, "edit", _SETTINGS, pictures=pictures, prompts=args.prompts)
    if not job.pictures or not job.prompts:
        raise InputError(
            "edit takes a picture and what it is to become, in quotes: littlecascade edit apple.png 'a green apple'"
        )
    return draw(args, job)
