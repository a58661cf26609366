"""`littlecascade generate`: pictures from words, each with the recipe that draws it again."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from littlecascade.cli import drawing_options as options
from littlecascade.cli.drawing import Job, draw
from littlecascade.errors import InputError

if TYPE_CHECKING:
    from littlecascade.cli.parser import Parser


def add_parser(subparsers: Any, **keywords: Any) -> Parser:
    """Declare the subcommand and its options."""
    parser: Parser = subparsers.add_parser(
        "generate",
        usage="%(prog)s PROMPT... [options]",
        help="draw pictures from words",
        description="Draw pictures from words. Each is a PNG that carries its recipe: --from draws it again, whichever "
        "command drew it from words. Words may be weighted, as in 'a (red:1.3) apple'.",
        **keywords,
    )
    parser.add_argument("prompts", metavar="PROMPT", nargs="*", help="what to draw; each quoted prompt is a picture")
    options.add_words(parser, options.WORDS)
    return parser


def run(args: Namespace) -> int:
    """Draw, save and print the path of every picture, one a line."""
    job = Job.of(args, "generate", options.WORDS, prompts=args.prompts)
    if not job.prompts:
        raise InputError('there is no prompt. Give one, in quotes: littlecascade generate "a red apple"')
    if job.verb == "generate" and not all(prompt.strip() for prompt in job.prompts):
        print("littlecascade: an empty prompt draws whatever comes up", file=sys.stderr)
    return draw(args, job)
