"""The configuration keys `dataset_filters` and `captions_getter`: which samples are used, and with what captions."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from littlecascade.data.expressions import EvaluationError, Expression
from littlecascade.errors import InputError, suggest

CAPTION_FUNCTIONS: dict[str, Callable[[str, random.Random], str]] = {
    "identity": lambda text, draw: text,
    "strip": lambda text, draw: text.strip(),
    "first_line": lambda text, draw: next(iter(_lines(text)), ""),
    "random_line": lambda text, draw: draw.choice(_lines(text) or [""]),
}
"""What a caption can be made of a member's text; the lines are those that are not blank, stripped."""


@dataclass(frozen=True)
class Filter:
    """A condition on the fields of a sample's json. A lambda gets its `field`, a plain expression all of them."""

    expression: Expression
    field: str | None = None

    def __call__(self, fields: Mapping[str, Any]) -> bool:
        """Whether a sample passes. Raises `EvaluationError` where a field is missing or of the wrong kind."""
        if self.field is None:
            return bool(self.expression(fields))
        if self.field not in fields:
            raise EvaluationError(f"there is no field {self.field!r}")
        return bool(self.expression(fields[self.field]))

    def __str__(self) -> str:
        return self.expression.source if self.field is None else f"{self.field}: {self.expression.source}"


def first_failure(filters: Iterable[Filter], fields: Mapping[str, Any]) -> str:
    """What keeps a sample with these fields out, or nothing."""
    for condition in filters:
        try:
            if not condition(fields):
                return f"it does not pass {condition}"
        except EvaluationError as error:
            return str(error)
    return ""


@dataclass(frozen=True)
class CaptionGetter:
    """Where captions are: in the member with the suffix `member`, from which `function` takes them.

    The function is a name in `CAPTION_FUNCTIONS` or an expression. A lambda gets the member's text, of a json member
    its value; in a plain expression the names are the fields of the json, or there is `text` alone. Without the member
    a sample can't be used if it is `required`; otherwise its caption is empty.
    """

    member: str = "txt"
    function: str | Expression = "random_line"
    required: bool = False

    def __call__(self, content: str | Any, draw: random.Random) -> str:
        """The caption. `content` is the member's text, of json its value; `draw` makes random choices.

        Raises `EvaluationError` where there is none.
        """
        if isinstance(self.function, str):
            return CAPTION_FUNCTIONS[self.function](content, draw)
        plain_text = self.function.parameter is None and isinstance(content, str)
        caption = self.function({"text": content} if plain_text else content)
        if not isinstance(caption, str):
            raise EvaluationError(f"{self.function.source!r} gives a {type(caption).__name__} and no text")
        return caption

    def alternatives(self, text: str) -> tuple[str, ...]:
        """All captions that a call could give for this text; none where that is empty."""
        if self.function == "random_line":
            return tuple(_lines(text))
        caption = self(text, random.Random(0))
        return (caption,) if caption else ()

    def __str__(self) -> str:
        function = self.function if isinstance(self.function, str) else self.function.source
        return f"{self.member} {function}" + (" required" if self.required else "")


def parse_filters(value: object) -> tuple[Filter, ...]:
    """`dataset_filters`: nothing, one filter, or a list of filters that must all be passed.

    A filter is an official pair (`['width', 'lambda w: w >= 768']`) or a plain expression. Raises `InputError`.

    >>> [str(one) for one in parse_filters([["width", "lambda w: w > 8"], "height > 8"])]
    ['width: lambda w: w > 8', 'height > 8']
    """
    match value:
        case None:
            given = []
        case str():
            given = [value]
        case [str(), str() as source] if source.lstrip().startswith("lambda"):
            given = [value]
        case list() | tuple():
            given = value
        case _:
            raise _no_filter(value)
    return tuple(_parse_filter(one) for one in given)


def _parse_filter(value: object) -> Filter:
    match value:
        case str():
            field, source = None, value
        case [str() as field, str() as source]:
            pass
        case _:
            raise _no_filter(value)
    expression = _expression("dataset_filters", source)
    if (field is None) != (expression.parameter is None):
        raise _no_filter(value)
    return Filter(expression, field)


def _no_filter(value: object) -> InputError:
    forms = "['width', 'lambda w: w >= 768'] or 'width >= 768'"
    return InputError(f"dataset_filters: {value!r} is no filter: write it as {forms}.")


def parse_captions_getter(value: object) -> CaptionGetter:
    """`captions_getter`: nothing, or a member's suffix and a function's name or an expression. Raises `InputError`.

    >>> parse_captions_getter(["txt", "identity"])
    CaptionGetter(member='txt', function='identity', required=True)
    """
    match value:
        case None:
            return CaptionGetter()
        case [str() as member, str() as function]:
            member = member.strip().removeprefix(".").lower()
        case _:
            raise InputError(
                f"captions_getter: {value!r} is no pair of a member and a function, as in [txt, identity]."
            )
    if member == "json" and function in CAPTION_FUNCTIONS:
        raise InputError(f"captions_getter: {function!r} is for text: for json name the field, as in [json, caption].")
    if function in CAPTION_FUNCTIONS:
        return CaptionGetter(member, function, required=True)
    if member != "json" and function.isidentifier() and function != "text":
        hint = suggest(function, CAPTION_FUNCTIONS)
        names = ", ".join(CAPTION_FUNCTIONS)
        raise InputError(f"captions_getter: there is no function {function!r}.{hint} Those are {names}.")
    return CaptionGetter(member, _expression("captions_getter", function), required=True)


def _expression(key: str, source: str) -> Expression:
    try:
        return Expression(source)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
