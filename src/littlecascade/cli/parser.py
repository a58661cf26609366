"""Argument parsing whose mistakes are `InputError`s, and the values that options take.

Everything here raises `InputError` with one line, which `littlecascade.cli.main` prints.
"""

from __future__ import annotations

import argparse
import math
import re
from typing import NoReturn

from littlecascade.errors import InputError, suggest

_SIZE = re.compile(r"\s*(\d+)\s*(?:[xX×]\s*(\d+)\s*)?")
_TIME = re.compile(r"(\d+(?:\.\d+)?)([dhms])")
_MINUTES = {"d": 1440, "h": 60, "m": 1, "s": 1 / 60}
_LORA = re.compile(r"(.+?)(?::([+-]?(?:\d+\.?\d*|\.\d+))(?::([\d.]+-[\d.]+))?)?")
_LARGEST_SEED = 2**63 - 1


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `InputError` where argparse would exit, and takes no abbreviations.

    Arguments without a dash may stand anywhere between the options of a command. One that is not known is told by the
    parser of the command that it stands behind, which knows what is spelt like it.
    """

    def __init__(self, **keywords) -> None:
        super().__init__(**{"allow_abbrev": False, **keywords})
        self._intermixing = False

    def parse_known_args(self, args=None, namespace=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._intermixing:  # in Python 3.11 the second call below comes back here
            return super().parse_known_args(args, namespace)
        if self._subparsers is not None:
            known, unknown = super().parse_known_args(args, namespace)
        else:
            self._intermixing = True
            try:
                known, unknown = self.parse_known_intermixed_args(args, namespace)
            finally:
                self._intermixing = False
        if unknown:
            self._reject(unknown[0])
        return known, unknown

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. '{self.prog} --help' lists what it takes.")

    def _reject(self, unknown: str) -> NoReturn:
        word = unknown.split("=")[0]
        if word.startswith("-"):
            hint = suggest(word, [option for option in self._option_string_actions if option.startswith("--")])
            raise InputError(f"unknown option {word!r}.{hint} '{self.prog} --help' lists the options.")
        raise InputError(f"unexpected argument {word!r}. '{self.prog} --help' lists what it takes.")


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


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    >>> numbers("1, 0.5,-2")
    (1.0, 0.5, -2.0)
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are not numbers with commas between them, such as 1,0.5") from None


def strength(text: str) -> float:
    """A number above 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 (the same picture) and up to 1 (a new one)")
    return value


def interval(text: str) -> tuple[float, float]:
    """Two numbers in order from 0 to 1, with a dash between them.

    >>> interval("0.2-0.8")
    (0.2, 0.8)
    """
    try:
        first, last = (float(part) for part in text.split("-"))
    except ValueError:
        first, last = math.nan, math.nan
    if not 0 <= first <= last <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an interval between 0 and 1, such as 0.2-0.8")
    return first, last


def lora(text: str) -> tuple[str, float, tuple[float, float]]:
    """`FILE[:SCALE[:FROM-TO]]`: a file, what it is scaled by, and the share of the steps in which it works.

    >>> lora("dog.safetensors:0.8:0-0.5"), lora(r"C:\\dog.safetensors")
    (('dog.safetensors', 0.8, (0.0, 0.5)), ('C:\\\\dog.safetensors', 1.0, (0.0, 1.0)))
    """
    match = _LORA.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not FILE[:SCALE[:FROM-TO]], such as dog.safetensors:0.8:0-0.5")
    return match[1], float(match[2] or 1), interval(match[3]) if match[3] else (0.0, 1.0)


def setting(text: str) -> str:
    """`KEY=VALUE`, as it stands."""
    key, separator, _ = text.partition("=")
    if not separator or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as batch_size=8")
    return text


def duration(text: str) -> float:
    """Minutes, from a length of time with its units.

    >>> duration("90m"), duration("1.5h"), duration("1h30m"), duration("1d 2h")
    (90.0, 90.0, 90.0, 1560.0)
    """
    words = text.replace(" ", "").lower()
    parts = _TIME.findall(words)
    minutes = sum(float(number) * _MINUTES[unit] for number, unit in parts)
    if not parts or "".join(map("".join, parts)) != words or not minutes:
        raise argparse.ArgumentTypeError(f"{text!r} is not a length of time, such as 90m, 10h or 1h30m")
    return minutes


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """The option `--set`."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        type=setting,
        help="overrule a key of the configuration; may be given several times",
    )


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
