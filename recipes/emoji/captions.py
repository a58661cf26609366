"""Captions of a picture: lines to choose from at random, each repeated as often as its share asks.

Of 20 lines `PLAIN` are the name, `STYLED` name the style too and `OTHER` say it in other words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PLAIN, STYLED, OTHER = 9, 5, 6
PARAPHRASES = ("{a}", "{} emoji", "an emoji of {a}", "a picture of {a}", "a drawing of {a}", "{} on white")
_UNCOUNTED = """
americas arts asia-australia away bacon badminton bald basket-making beard biking bowling bread broccoli
butter camping chai claus construction cooking corn cream custard dizzy dna down dusk europe-africa
facepalming falafel feeding feet fencing fire flatbread fog foggy fondue food fuji garlic green hair hockey holding ice
japan judo juggling kaaba kissing kneeling lacrosse left liberty liquid locked luggage mail mate men meat milk money
night off oden on paper people poo polo pong popcorn rice right rowing running sake salt shamrock skiing skis
snowboarding soap spaghetti springs standing star-struck sunrise sunset surfing sushi swimming tai taurus tea tennis
thread together tower unlocked up voltage walking way wind wood women wrestling yarn zzz
children breast-feeding laughing
"""
UNCOUNTED = frozenset(_UNCOUNTED.split())
"""Head words of names that take no article."""


@dataclass(frozen=True)
class Synonyms:
    """Other words for an emoji's name: `shown` ones may be captions, `held_out` ones (word to name) never are."""

    shown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    held_out: Mapping[str, str] = field(default_factory=dict)

    def check(self, names: Iterable[str]) -> None:
        """Raises `ValueError` for a synonym of no emoji, or a held-out word that a caption would hold."""
        names = set(names)
        unknown = ({*self.shown} | {*self.held_out.values()}) - names
        if unknown:
            raise ValueError(f"There are synonyms for names that no emoji bears: {sorted(unknown)}.")
        texts = [*names, *(word for words in self.shown.values() for word in words)]
        leaks = [(word, text) for word in self.held_out for text in texts if mentions(text, word)]
        if leaks:
            raise ValueError(f"Held-out synonyms occur in captions: {leaks}.")


def read_synonyms(path: Path) -> Synonyms:
    """Reads lines of `name: word, word*`; a star marks a held-out word, `#` a comment."""
    shown: dict[str, tuple[str, ...]] = {}
    held_out: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, listed = line.partition(":")
        words = [word.strip() for word in listed.split(",")]
        held_out |= {word[:-1]: name for word in words if word.endswith("*")}
        if kept := tuple(word for word in words if not word.endswith("*")):
            shown[name] = kept
    return Synonyms(shown, held_out)


def mentions(text: str, word: str) -> bool:
    """Whether `text` holds `word`, or its plural, as a whole word.

    >>> mentions("two donuts", "donut"), mentions("toadstool", "toad")
    (True, False)
    """
    return re.search(rf"\b{re.escape(word)}(s|es)?\b", text) is not None


def captions(
    name: str,
    styles: Sequence[str],
    synonyms: Sequence[str] = (),
    colour: str | None = None,
    counted: bool = True,
    salt: str = "",
) -> list[str]:
    """The caption lines of a picture of `name`: 20 of them, repeats meant.

    `styles` are phrases with `{}` for the name. A `colour` goes before the name and before each synonym. Names of
    signs are not `counted`: they take no article. `salt` turns the choice of paraphrases, so that an emoji's pictures
    do not all share the same ones.
    """
    subject = f"{colour} {name}" if colour else name
    turn = int.from_bytes(hashlib.sha256(f"{salt} {subject}".encode()).digest()[:4], "big")
    article = with_article if counted else str
    phrases = [phrase.format(subject, a=article(subject)) for phrase in PARAPHRASES]
    if colour:
        phrases.append(f"{article(name)} in {colour}")
    others = [f"{colour} {word}" if colour else word for word in synonyms]
    weighted = min(OTHER - 2, 2 * len(others))
    lines = [subject] * PLAIN
    lines += [phrase.format(subject) for phrase in _cycle(styles, STYLED, turn)]
    lines += _cycle(others, weighted, turn) + _cycle(phrases, OTHER - weighted, turn)
    return lines


def with_article(text: str) -> str:
    """`text` with "a" or "an" where one thing is meant; plurals, materials, doings and signs stay bare.

    >>> with_article("owl"), with_article("grapes"), with_article("blue bread"), with_article("flag: france")
    ('an owl', 'grapes', 'blue bread', 'flag: france')
    """
    head = re.split(r" (?:with|of|in|on|at|over|behind|without|and|showing|from) |: ", text)[0].split()[-1]
    plural = head.endswith("s") and not head.endswith(("ss", "us", "is"))
    if plural or head in UNCOUNTED or re.search(r"[:(&]|'clock|-thirty|^\d", text):
        return text
    sounds_vowel = text.startswith(("a", "e", "i", "o", "u", "hour", "x-"))
    sounds_consonant = text.startswith(("uni", "one", "eu", "ufo"))
    return f"{'an' if sounds_vowel and not sounds_consonant else 'a'} {text}"


def _cycle(items: Sequence[str], count: int, start: int) -> list[str]:
    return [items[(start + index) % len(items)] for index in range(count)] if items else []
