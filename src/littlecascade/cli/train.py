"""`littlecascade train`: one stage, from a run configuration; the same command goes on where it stopped."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littlecascade.cli import parser as values

if TYPE_CHECKING:
    from littlecascade.cli.parser import Parser


def add_parser(subparsers: Any, **keywords: Any) -> Parser:
    """Declare the subcommand and its options."""
    parser: Parser = subparsers.add_parser(
        "train",
        help="train a stage",
        description="Train a stage. A stopped run goes on when the same command is given again.",
        **keywords,
    )
    parser.add_argument("task", metavar="TASK", help="a, b or c (the stages), compressor, text or image (the encoders)")
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the run configuration, a YAML file")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        type=values.setting,
        help="overrule a key of the configuration; may be given several times",
    )
    parser.add_argument("--max-minutes", metavar="M", type=values.number, help="stop, resumably, after this long")
    parser.add_argument(
        "--export",
        action="store_true",
        help="do not train: write the weights as they are at the last checkpoint, of a run that may still be going on",
    )
    return parser


def run(args: Namespace) -> int:
    """Train until the configuration's last update, or until the time is up; print the folder of the weights."""
    if args.export:
        from littlecascade.training.run import export

        print(export(args.task, args.config, args.overrides))
        return 0
    from littlecascade.training.run import train

    weights = train(args.task, args.config, args.overrides, args.max_minutes)
    print("stopped: the same command goes on from here" if weights is None else weights)
    return 0
