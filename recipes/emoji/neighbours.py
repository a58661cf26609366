"""Gives pictures more words for what they show: the nearest ones of a dictionary, as the sentence encoder sees it.

    python recipes/emoji/neighbours.py --data DIR --text DIR

`DIR` of `--data` is what build.py wrote, `DIR` of `--text` what teacher.py wrote. The captions in the training shards
get `LINES` more lines each ("a canine" beside "dog"), so that Stage C sees, around each name, the embeddings of words
that mean nearly the same. Words like a held-out synonym, and words that look like the name itself, are left out.
`neighbours.json` in `--data` lists them; shards that have them already are left as they are.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from build import add, write_json
from teacher import KINDS
from torch import Tensor
from tqdm import tqdm

from littlecascade.checkpoint import files
from littlecascade.errors import InputError

NEAREST = 8
LINES = 4
LEAST_COSINE = 0.5
STEM = 4
TABLE = "neighbours.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and prints its counts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the shards that build.py wrote")
    parser.add_argument("--text", type=Path, required=True, help="folder that teacher.py wrote")
    options = parser.parse_args(arguments)
    if (options.data / TABLE).is_file():
        print(f"{options.data / TABLE} is there: the shards have their neighbours.", file=sys.stderr)
        return 0
    try:
        names = json.loads((options.data / "names.json").read_text("utf-8"))
        held_out = json.loads((options.data / "synonyms.json").read_text("utf-8"))
        texts = (options.text / "texts.txt").read_text("utf-8").removesuffix("\n").split("\n")
        tensors = files.load(options.text / "teacher.safetensors")
    except (OSError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found = neighbours(list(names), texts, tensors["embeddings"], tensors["kinds"], held_out)
    shards = sorted(options.data.glob("train-*.tar"))
    added = sum(extend(shard, found) for shard in tqdm(shards, disable=None))
    write_json(options.data / TABLE, found)
    print(json.dumps({"names": len(found), "words": sum(map(len, found.values())), "pictures": added}, indent=1))
    return 0


def neighbours(
    names: Sequence[str], texts: Sequence[str], embeddings: Tensor, kinds: Tensor, held_out: Iterable[str]
) -> dict[str, list[str]]:
    """Up to `NEAREST` words for each of `names`, the nearest first; a word goes to the one name it is nearest to.

    embeddings: (N, P) of the N `texts`; kinds: (N,), an index into the teacher's `KINDS`.
    """
    row_of = {text: row for row, text in enumerate(texts)}
    known = [name for name in names if name in row_of]
    units = torch.nn.functional.normalize(embeddings.float(), dim=-1)
    words = [row for row, kind in enumerate(kinds.tolist()) if KINDS[kind] == "word"]
    cosine, nearest = (units[words] @ units[[row_of[name] for name in known]].T).max(1)
    held_out = tuple(held_out)
    found: dict[str, list[str]] = {}
    for place in cosine.argsort(descending=True).tolist():
        word, name = texts[words[place]], known[int(nearest[place])]
        near = found.get(name, [])
        if cosine[place] < LEAST_COSINE:
            break
        if len(near) < NEAREST and not alike(word, name) and not any(other in word for other in held_out):
            found[name] = [*near, word]
    return found


def alike(word: str, name: str) -> bool:
    """Whether any part of `word` begins as some part of `name` does.

    >>> alike("sea turtles", "turtle"), alike("canine", "dog")
    (True, False)
    """
    return any(one[:STEM].startswith(other[:STEM]) for one in word.split() for other in name.split())


def extend(shard: Path, found: Mapping[str, Sequence[str]]) -> int:
    """Writes the shard anew with more caption lines, and returns how many pictures got some."""
    members = {member.name: data for member, data in _members(shard)}
    temporary, count = shard.with_suffix(".tar.tmp"), 0
    with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            if name.endswith(".txt"):
                facts = json.loads(members[f"{name.removesuffix('.txt')}.json"])
                more = lines(facts, found, turn=len(data))
                count += bool(more)
                data += "".join(f"{line}\n" for line in more).encode()
            add(tar, name, data)
    temporary.replace(shard)
    return count


def lines(facts: Mapping[str, str | None], found: Mapping[str, Sequence[str]], turn: int) -> list[str]:
    """The lines to add for a picture with these facts, its colour before each word; `turn` rotates the choice.

    >>> lines({"name": "blue dog", "colour": "blue"}, {"dog": ["canine"]}, 0)
    ['blue canine', 'blue canine', 'blue canine', 'blue canine']
    """
    name, colour = facts["name"] or "", f"{facts['colour']} " if facts["colour"] else ""
    words = found.get(name.removeprefix(colour), ())
    return [f"{colour}{words[(turn + number) % len(words)]}" for number in range(LINES)] if words else []


def _members(shard: Path) -> Iterable[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(shard) as tar:
        for member in tar:
            content = tar.extractfile(member) or io.BytesIO()
            yield member, content.read()


if __name__ == "__main__":
    raise SystemExit(main())
