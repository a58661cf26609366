"""Argument parsing whose mistakes are `InputError`s, and the values that options take.

Everything here raises `InputError` with one line, which `littlecascade.cli.main` prints.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from typing import NoReturn

from littlecascade.errors import InputError, suggest

_SIZE = re.compile(r"\s*(\d+)\s*(?:[xX×]\s*(\d+)\s*)?")
_LARGEST_SEED = 2**63 - 1


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `InputError` where argparse would exit, and takes no abbreviations."""

    def __init__(self, **keywords) -> None:
        super().__init__(**{"allow_abbrev": False, **keywords})

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. '{self.prog} --help' lists what it takes.")

    def reject(self, unknown: Sequence[str]) -> NoReturn:
        """Raise `InputError` about the first of the arguments that `parse_known_args` left over."""
        word = unknown[0].split("=")[0]
        if word.startswith("-"):
            hint = suggest(word, [option for option in self._option_string_actions if option.startswith("--")])
            raise InputError(f"unknown option {word!r}.{hint} '{self.prog} --help' lists the options.")
        raise InputError(
            f"unexpected argument {word!r}: arguments without a dash stand together, and quoted if they hold spaces."
        )


def size(text: str) -> tuple[int, int]:
    """Width and height in pixels from `WxH`, or from one number for a square.

    >>> size("192x128"), size("128")
    ((192, 128), (128, 128))
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InputError(f"--size {text!r} is not a size in pixels: give WIDTHxHEIGHT, such as 128x128.")
    width = int(match[1])
    height = int(match[2] or width)
    if width < 1 or height < 1:
        raise InputError(f"--size {text!r}: width and height must be at least 1 pixel.")
    return width, height


def count(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, least=1, most=_LARGEST_SEED)


def seed(text: str) -> int:
    """A whole number from 0 to 2^63 - 1."""
    return _whole(text, least=0, most=_LARGEST_SEED)


def number(text: str) -> float:
    """A finite number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def setting(text: str) -> str:
    """`KEY=VALUE`, as it stands."""
    key, separator, _ = text.partition("=")
    if not separator or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as batch_size=8")
    return text


def _whole(text: str, *, least: int, most: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number from {least}" + ("" if value <= most else f" to {most}")
        )
    return value
