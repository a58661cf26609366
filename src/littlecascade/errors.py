"""The one exception that a user's mistake raises, and the help that goes into its message."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


class InputError(Exception):
    """Something the user gave can't be used: an argument, a file, a configuration, a folder.

    The message says what was wrong, where, what was looked for, the nearest valid choice and what to do.
    Command lines print it without a traceback.
    """


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that is spelt most like `word`, upper and lower case taken alike, or None if none comes close."""
    by_folded = {choice.casefold(): choice for choice in choices}
    close = get_close_matches(word.casefold(), by_folded, n=len(by_folded) or 1, cutoff=0.5)
    if not close:
        return None
    return by_folded[max(close, key=lambda choice: _likeness(word.casefold(), choice))]


def _likeness(word: str, choice: str) -> float:
    """How alike two words are, from 0 to 2; letters in another order count half."""
    pairs = ((word, choice), (sorted(word), sorted(choice)))
    return sum(SequenceMatcher(None, one, other).ratio() for one, other in pairs)


def suggest(word: str, choices: Iterable[str]) -> str:
    """A sentence to append to an error message: `" Did you mean 'ddpm'?"`, or `""` where nothing comes close."""
    choice = nearest(word, choices)
    return "" if choice is None else f" Did you mean {choice!r}?"
