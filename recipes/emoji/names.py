"""Emoji names, groups and keywords from emojibase-data and emojilib, as plain lower-case ASCII."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPONENT_GROUP = "component"
SHARED_BY_AT_MOST = 3


@dataclass(frozen=True)
class Emoji:
    """One emoji: `code` is its code points in lower-case hex joined by `-`, without FE0F."""

    code: str
    name: str
    group: str
    subgroup: str
    keywords: tuple[str, ...]


def plain_code(code: str) -> str:
    """The code points of `code` (hex, joined by `-`) in lower case and without the variation selector FE0F."""
    return "-".join(point for point in code.lower().split("-") if point != "fe0f")


def code_of(text: str) -> str:
    """The code points of an emoji string, in the form of `plain_code`."""
    return plain_code("-".join(f"{ord(character):04x}" for character in text))


def plain_text(text: str) -> str:
    """`text` as people type it: lower case, ASCII, straight apostrophes, no quotation marks, single spaces.

    >>> plain_text("Woman’s  piñata_stick")
    "woman's pinata stick"
    """
    text = text.replace("’", "'").replace("_", " ").translate({ord(mark): None for mark in '“”"'})
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return " ".join(ascii_text.lower().split())


def words(text: str) -> set[str]:
    """The words of `text` and their singulars, for comparing names with keywords."""
    found = set(re.findall(r"[a-z0-9']+", text.replace("-", " ")))
    return found | {word.removesuffix("s") for word in found if len(word) > 3}


def identifying(candidates: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """Keeps the keywords that are shared by at most `SHARED_BY_AT_MOST` emoji and say more than the name does.

    `candidates` maps a name to its keywords; so does the result.
    """
    uses = Counter(keyword for keywords in candidates.values() for keyword in set(keywords))
    return {
        name: tuple(
            keyword
            for keyword in sorted(set(keywords))
            if uses[keyword] <= SHARED_BY_AT_MOST
            and re.fullmatch(r"[a-z][a-z' -]{2,}", keyword)
            and not words(keyword) <= words(name)
        )
        for name, keywords in candidates.items()
    }


def load(emojibase: Path, emojilib: Path) -> list[Emoji]:
    """Reads every emoji without a skin tone, in Unicode's order, from the two unpacked npm packages."""
    records = json.loads((emojibase / "en" / "data.json").read_text(encoding="utf-8"))
    messages = json.loads((emojibase / "en" / "messages.json").read_text(encoding="utf-8"))
    extra = json.loads((emojilib / "dist" / "emoji-en-US.json").read_text(encoding="utf-8"))
    extra = {code_of(text): keywords for text, keywords in extra.items()}
    groups = [group["key"] for group in sorted(messages["groups"], key=lambda group: group["order"])]
    subgroups = {subgroup["order"]: subgroup["key"] for subgroup in messages["subgroups"]}
    chosen = [r for r in records if "group" in r and groups[r["group"]] != COMPONENT_GROUP]
    chosen.sort(key=lambda record: record["order"])
    keywords = identifying({plain_text(r["label"]): _keywords(r, extra) for r in chosen})
    return [
        Emoji(
            plain_code(r["hexcode"]),
            name := plain_text(r["label"]),
            groups[r["group"]],
            subgroups[r["subgroup"]],
            keywords[name],
        )
        for r in chosen
    ]


def _keywords(record: Mapping[str, Any], extra: Mapping[str, Iterable[str]]) -> list[str]:
    found = [*record.get("tags", ()), *extra.get(plain_code(record["hexcode"]), ())]
    return [plain_text(keyword) for keyword in found]
