"""`littlecascade train`: one stage, from a run configuration; the same command goes on where it stopped."""

from __future__ import annotations

import shlex
import subprocess
import sys
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
    parser.add_argument(
        "task",
        metavar="TASK",
        help="a, b, c (stages), lora, lora_b (of Stage B), compressor, text, image (encoders)",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the run configuration, a YAML file")
    values.add_overrides(parser)
    time = parser.add_mutually_exclusive_group()
    time.add_argument(
        "--for",
        dest="minutes",
        metavar="TIME",
        type=values.duration,
        help="be done in this time (90m, 10h, 1h30m), with as many of the updates as fit, and go on for as long if "
        "given again",
    )
    time.add_argument("--max-minutes", metavar="M", type=values.number, help="stop, resumably, after so many minutes")
    parser.add_argument(
        "--restart", action="store_true", help="begin anew: the run that is there is moved aside, nothing is deleted"
    )
    parser.add_argument(
        "--fit", action="store_true", help="make batch_size and grad_accum_steps divide where they do not"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="do not train: check everything, and say what would be done"
    )
    parser.add_argument(
        "--export",
        action="store_true",
        help="do not train: write the weights as they are at the last checkpoint, of a run that may still be going on",
    )
    return parser


def run(args: Namespace) -> int:
    """Train until the configuration's last update, or until the time is up; print the folder of the weights.

    With `--dry-run` returns 1 if something has to be fixed first.
    """
    if args.fit:
        args.overrides = [*args.overrides, *_fit(args)]
    if args.dry_run:
        return _rehearse(args)
    if args.export:
        from littlecascade.training.run import export

        print(export(args.task, args.config, args.overrides))
        return 0
    from littlecascade.training.run import train

    try:
        weights = train(
            args.task, args.config, args.overrides, args.max_minutes, minutes=args.minutes, restart=args.restart
        )
    except KeyboardInterrupt as error:
        error.add_note(f"what was saved stays, and this goes on from there: {_again(args)}")
        raise
    print(f"to go on: {_again(args)}" if weights is None else weights)
    return 0


def _again(args: Namespace) -> str:
    """The command that goes on with this run, as a shell takes it; a time that it was fitted to is kept with it."""
    words = ["littlecascade", "train", args.task, str(args.config)]
    words += [word for override in args.overrides for word in ("--set", override)]
    words += [] if args.max_minutes is None else ["--max-minutes", f"{args.max_minutes:g}"]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def _fit(args: Namespace) -> list[str]:
    from littlecascade.training.run import fit

    changes = fit(args.task, args.config, args.overrides)
    for change in changes:
        print(f"fitted: {change}", file=sys.stderr)
    return changes


def _rehearse(args: Namespace) -> int:
    """Say all that is known of a run before it starts."""
    from littlecascade.cli.doctor import report
    from littlecascade.doctor.examine import examine_run

    lines = list(examine_run(args.config, args.task, args.overrides))
    print(report(lines))
    wrong = sum(line.level == "fix" for line in lines)
    print(f"{wrong} to fix before it can start" if wrong else "nothing in the way: without --dry-run it starts")
    return 1 if wrong else 0
