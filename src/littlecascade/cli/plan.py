"""`littlecascade plan`: what a training would take of memory and time, and how to make it fit."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littlecascade.cli import parser as values

if TYPE_CHECKING:
    from littlecascade.cli.parser import Parser


def add_parser(subparsers: Any, **keywords: Any) -> Parser:
    """Declare the subcommand and its options."""
    parser: Parser = subparsers.add_parser(
        "plan",
        help="say what a training would take of memory and time, and how to make it fit",
        description="Run a training's own code without data, and say how much memory each phase of it takes. No "
        "weights are needed: what is not there counts as the size that model_version names.",
        **keywords,
    )
    parser.add_argument("task", metavar="TASK", help="a, b, c (stages), lora, compressor, text, image (encoders)")
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the run configuration, a YAML file")
    values.add_overrides(parser)
    parser.add_argument(
        "--gpu",
        metavar="CARD",
        help="'RTX 2080 Ti', or '11GB,turing', or cpu; the machine's own if not given",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead, in bytes and seconds")
    return parser


def run(args: Namespace) -> int:
    """Print the plan. Returns 1 if the training does not fit as it is."""
    from littlecascade.training.plan.plan import make_plan
    from littlecascade.training.plan.table import as_json, render
    from littlecascade.training.plan.target import Target
    from littlecascade.training.run import open_config

    target = Target.of(args.gpu)
    config = open_config(args.task, args.config, args.overrides)
    plan = make_plan(args.task, config, target, config.model_fields_set)
    print(json.dumps(as_json(plan), indent=2) if args.json else render(plan))
    return 0 if plan.estimate.fits else 1
