"""The command `littlecascade`: finds the subcommand, runs it, and turns mistakes into one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from littlecascade import __version__
from littlecascade.cli import data, doctor, edit, generate, lora, models, plan, reconstruct, train, vary
from littlecascade.cli.parser import Parser
from littlecascade.errors import InputError, suggest

COMMANDS = {
    "generate": generate,
    "vary": vary,
    "edit": edit,
    "reconstruct": reconstruct,
    "data": data,
    "plan": plan,
    "train": train,
    "lora": lora,
    "models": models,
    "doctor": doctor,
}
"""Each is a module with `add_parser(subparsers, **keywords) -> Parser` and `run(args) -> exit code`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: `sys.argv`) and return its exit code.

    0 is success, 1 a failure of the machine (a full disk, say), 2 the user's mistake, 130 an interruption. The last
    three print one line to stderr; with `--debug` they raise instead, so that the traceback shows.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except (InputError, OSError, KeyboardInterrupt) as error:
        if "--debug" in words:
            raise
        line, code = _explain(error)
        print(f"littlecascade: {line}", file=sys.stderr)
        return code


def _run(words: list[str]) -> int:
    parser = _parser()
    command = next((word for word in words if not word.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        hint = suggest(command, COMMANDS)
        raise InputError(f"unknown command {command!r}.{hint} The commands are {', '.join(COMMANDS)}.")
    args = parser.parse_args(words)
    if command is None:
        parser.print_help()
        return 0
    return COMMANDS[command].run(args)


def _parser() -> Parser:
    """The whole command line's."""
    shared = Parser(add_help=False)
    shared.add_argument("--debug", action="store_true", help="show the traceback of a mistake")
    parser = Parser(
        prog="littlecascade",
        parents=[shared],
        description="Stable Cascade for one person: draw pictures from words and from pictures, and train every stage.",
    )
    parser.add_argument("--version", action="version", version=f"littlecascade {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for module in COMMANDS.values():
        module.add_parser(subparsers, parents=[shared])
    return parser


def _explain(error: InputError | OSError | KeyboardInterrupt) -> tuple[str, int]:
    """What to tell about `error` and of its notes, and the exit code."""
    notes = getattr(error, "__notes__", [])
    match error:
        case InputError():
            line, code = str(error), 2
        case KeyboardInterrupt():
            line, code = "interrupted", 130
        case _:
            line, code = f"{error} (--debug shows where)", 1
    return "; ".join([line, *notes]), code
