"""`littlecascade doctor`: what is wrong with this machine, this installation or a run configuration, and what to do."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littlecascade.cli import parser as values

if TYPE_CHECKING:
    from littlecascade.checks import Line
    from littlecascade.cli.parser import Parser


def add_parser(subparsers: Any, **keywords: Any) -> Parser:
    """Declare the subcommand and its options."""
    parser: Parser = subparsers.add_parser(
        "doctor",
        help="say what is wrong with this machine or a run configuration, and what to do",
        description="Look at the machine, the installation and the weights, and at all that a run configuration names. "
        "Nothing is downloaded or changed. The exit status is 1 if there is something to fix, else 0.",
        **keywords,
    )
    parser.add_argument("config", metavar="CONFIG", nargs="?", type=Path, help="a run configuration, a YAML file")
    parser.add_argument("--task", help="the kind of training that it is for, where the file does not tell")
    values.add_overrides(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


def run(args: Namespace) -> int:
    """Print what was found. Returns 1 if something has to be fixed."""
    from littlecascade.doctor.examine import examine_host, examine_run
    from littlecascade.doctor.host import Host

    lines = list(examine_host(Host.here()))
    if args.config is not None:
        lines += examine_run(args.config, args.task, args.overrides)
    sound = all(line.level != "fix" for line in lines)
    if args.json:
        print(json.dumps({"ok": sound, "lines": [vars(line) for line in lines]}, indent=2))
    else:
        print(report(lines))
    return 0 if sound else 1


def report(lines: Sequence[Line]) -> str:
    """The lines for a person: what to do stands below what it is for."""
    width = max((len(line.subject) for line in lines), default=0)
    shown: list[str] = []
    for line in lines:
        indent = " " * (6 + width + 2)
        shown.append(f"{line.level:4}  {line.subject:{width}}  {line.text}".replace("\n", f"\n{indent}"))
        if line.remedy:
            shown.append(f"{indent}-> {line.remedy}")
    return "\n".join(shown)
