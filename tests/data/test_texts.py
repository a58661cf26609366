from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from littlecascade.conditioning.text import TextEmbedding
from littlecascade.data import texts
from littlecascade.data.texts import Texts


class Lengths:
    """An encoder whose embeddings are the texts' lengths; counts the texts that it is given."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, lines: Sequence[str]) -> TextEmbedding:
        self.seen += lines
        length = torch.tensor([float(len(line)) for line in lines]).view(-1, 1, 1)
        return TextEmbedding(length.expand(-1, 4, 2), length.expand(-1, 1, 3) / 2)


def test_each_text_is_encoded_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(texts, "FILE", 2)
    encode = Lengths()
    kept = Texts(tmp_path, "key", lambda: encode)
    kept.ensure(["a", "bbb", "a", ""])
    kept.ensure(["cc", "bbb"])
    assert encode.seen == ["a", "bbb", "", "cc"]
    again = Texts(tmp_path, "key", lambda: encode)
    again.ensure(["cc", "a"])
    assert len(encode.seen) == 4
    embedding = again.embed(["cc", "", "bbb", "cc"])
    assert embedding.hidden.shape == (4, 4, 2)
    assert embedding.hidden[:, 0, 0].tolist() == [2, 0, 3, 2]
    assert embedding.pooled.shape == (4, 1, 3)
    assert embedding.pooled[:, 0, 0].tolist() == [1, 0, 1.5, 1]
    assert embedding.pooled.dtype == torch.float32


def test_another_encoder_has_a_folder_of_its_own(tmp_path: Path) -> None:
    first, second = Lengths(), Lengths()
    Texts(tmp_path, "one", lambda: first).ensure(["a"])
    Texts(tmp_path, "other", lambda: second).ensure(["a"])
    assert (first.seen, second.seen) == (["a"], ["a"])


def test_two_processes_that_encode_the_same_text_do_no_harm(tmp_path: Path) -> None:
    first, second = (Texts(tmp_path, "key", Lengths) for _ in range(2))
    first.ensure(["a", "b"])
    second.ensure(["b", "cc"])
    merged = Texts(tmp_path, "key", Lengths)
    assert merged.embed(["a", "b", "cc"]).hidden[:, 0, 0].tolist() == [1, 1, 2]
