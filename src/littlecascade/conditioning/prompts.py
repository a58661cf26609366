"""Prompts whose words weigh more or less: `a (red:1.3) apple`, `a ((red)) apple`, `a [red] apple`.

`(words:1.3)` gives the weight 1.3, `(words)` 1.1 and `[words]` 1 / 1.1; nested weights multiply. A backslash before a
bracket, a colon or a backslash takes the sign as it stands: `smile :\\)`. Colons outside of brackets are text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn, Self

from littlecascade.errors import InputError

STRONGER = 1.1
LARGEST = 10.0  # either way; the field draws with weights of 0.5 to 1.5

_CLOSING = {"(": ")", "[": "]"}
_SIGNS = "()[]:\\"


@dataclass(frozen=True)
class Prompt:
    """A text, the weight of each of its characters, and the notation that said so.

    >>> prompt = Prompt.parse("a (red:1.5) [cat]")
    >>> prompt.text, prompt.weights[2], round(prompt.weights[6], 3), prompt.weights[0]
    ('a red cat', 1.5, 0.909, 1.0)
    """

    text: str
    weights: tuple[float, ...]
    source: str

    @classmethod
    def parse(cls, source: str, names: Iterable[str] = ()) -> Self:
        """Read the notation above. Raises `InputError` for a bracket without its partner or a weight that is none.

        names: of learned tokens, such as `[fernando]`, which are text with brackets and all.
        """
        return cls(*_Reader(source, tuple(name.lower() for name in names)).read(), source)

    @classmethod
    def plain(cls, text: str) -> Self:
        """A text that is taken as it stands, brackets and all."""
        return cls(text, (1.0,) * len(text), escape(text))

    @property
    def weighted(self) -> bool:
        """Whether any weight differs from 1."""
        return any(weight != 1 for weight in self.weights)


def escape(text: str) -> str:
    """The notation for a text that is meant as it stands.

    >>> escape("smile :)")
    'smile \\\\:\\\\)'
    """
    return "".join(f"\\{sign}" if sign in _SIGNS else sign for sign in text)


@dataclass
class _Bracket:
    """An open bracket: its sign, where it is in the source, where its words and its last colon are in the text."""

    sign: str
    place: int
    start: int
    colon: tuple[int, int] | None = None
    """Of the last colon: its place in the source, and in the text."""


class _Reader:
    """Goes through a source once, sign by sign."""

    def __init__(self, source: str, names: tuple[str, ...]) -> None:
        self.source, self.names = source, names
        self.text: list[str] = []
        self.weights: list[float] = []
        self.open: list[_Bracket] = []

    def read(self) -> tuple[str, tuple[float, ...]]:
        place = 0
        while place < len(self.source):
            sign = self.source[place]
            if name := self._name(place):
                for sign in name:
                    self._add(sign)
                place += len(name) - 1
            elif sign == "\\" and self.source[place + 1 : place + 2] in (*_SIGNS,):
                place += 1
                self._add(self.source[place])
            elif sign in _CLOSING:
                self.open.append(_Bracket(sign, place, len(self.text)))
            elif sign in _CLOSING.values():
                self._close(sign, place)
            else:
                if sign == ":" and self.open:
                    self.open[-1].colon = place, len(self.text)
                self._add(sign)
            place += 1
        if self.open:
            bracket = self.open[-1]
            self._fail(bracket.place, f"this {bracket.sign} is never closed")
        return "".join(self.text), tuple(self.weights)

    def _name(self, place: int) -> str:
        """The longest of the names that stands there, as it is written there, or nothing."""
        found = (self.source[place : place + len(name)] for name in self.names)
        return max((text for text in found if text.lower() in self.names), key=len, default="")

    def _add(self, sign: str) -> None:
        self.text.append(sign)
        self.weights.append(1.0)

    def _close(self, sign: str, place: int) -> None:
        if not self.open or _CLOSING[self.open[-1].sign] != sign:
            self._fail(place, f"this {sign} closes no bracket")
        bracket = self.open.pop()
        weight = STRONGER if bracket.sign == "(" else 1 / STRONGER
        if bracket.colon is not None:
            weight = self._weight(bracket, bracket.colon[0], place)
            del self.text[bracket.colon[1] :], self.weights[bracket.colon[1] :]
        for at in range(bracket.start, len(self.weights)):
            self.weights[at] *= weight

    def _weight(self, bracket: _Bracket, colon: int, end: int) -> float:
        number = self.source[colon + 1 : end].strip()
        if bracket.sign == "[":
            self._fail(colon, "only round brackets take a weight, as in (word:0.8)")
        try:
            weight = float(number)
        except ValueError:
            self._fail(colon, f"{number!r} is no weight: write a number, as in (word:1.3)")
        if not abs(weight) <= LARGEST:
            self._fail(colon, f"a weight lies between {-LARGEST:g} and {LARGEST:g}")
        return weight

    def _fail(self, place: int, why: str) -> NoReturn:
        found = self.source[max(0, place - 15) : place + 15]
        raise InputError(
            f"Prompt {self.source!r}: {why} (sign {place + 1}, in {found!r}). Signs that are meant as text take a "
            "backslash: \\( \\) \\[ \\] \\:."
        )
