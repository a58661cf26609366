"""What the text tower is taught with: texts, and where its teacher puts them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.errors import InputError
from littlecascade.presets import find_preset
from littlecascade.training.config import TextRun


class Lessons(NamedTuple):
    """embeddings: (N, P), the teacher's. ids, mask: (N, T), the tokens of the N texts."""

    tokenizer: ClipTokenizer
    embeddings: Tensor
    ids: Tensor
    mask: Tensor


def read_lessons(config: TextRun) -> Lessons:
    """What a run's files hold. Raises `InputError` where they do not fit together."""
    embeddings, texts = _read_teacher(config.teacher_path)
    tokenizer = ClipTokenizer.load(config.tokenizer_path)
    positions = find_preset(config.model_version).text.positions
    chunks = [tokenizer.chunks(text, positions - 2)[0] for text in texts]
    return Lessons(tokenizer, embeddings, *tokenizer.collate(chunks, positions))


def _read_teacher(path: Path) -> tuple[Tensor, list[str]]:
    """The teacher's embeddings (N, P) and their N texts."""
    tensors, beside = files.load(path), path.with_name("texts.txt")
    if "embeddings" not in tensors:
        raise InputError(f"{path} holds no `embeddings`, but {', '.join(tensors) or 'nothing'}.")
    if not beside.is_file():
        raise InputError(f"The texts of {path} are not beside it: looked for {beside}.")
    texts = beside.read_text("utf-8").removesuffix("\n").split("\n")
    if len(texts) != len(tensors["embeddings"]):
        raise InputError(
            f"{path} holds {len(tensors['embeddings'])} embeddings for {len(texts)} texts: make both anew."
        )
    return tensors["embeddings"], texts
