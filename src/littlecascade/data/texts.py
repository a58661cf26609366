"""The text embeddings of captions, each distinct caption encoded once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from littlecascade.checkpoint import files
from littlecascade.conditioning.text import TextEmbedding

FILE = 1024
"""Texts that are kept in one file."""

Compute = Callable[[Sequence[str]], TextEmbedding]
"""Gives the hidden states (N, T, width) and pooled vectors (N, 1, projection) of N texts."""


class Texts:
    """Embeddings by their text, in files below a folder that is named by `key`, which stands for the encoder.

    load: gives the encoder, which is dropped once nothing is missing. Embeddings are kept in float16.
    Processes that share the folder may all add to it: a text that two of them encode is kept twice, and that is all.
    """

    def __init__(self, root: Path, key: str, load: Callable[[], Compute]) -> None:
        self.folder = root / f"texts-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        self.load = load
        self._places: dict[str, tuple[Path, int]] = {}
        self._open: dict[Path, Mapping[str, Tensor]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            self._note(path, json.loads(files.metadata(path)["texts"]))

    def __contains__(self, text: str) -> bool:
        return text in self._places

    @torch.no_grad()
    def ensure(self, texts: Iterable[str]) -> None:
        """Encode what is not there yet."""
        missing = [text for text in dict.fromkeys(texts) if text not in self]
        if not missing:
            return
        compute = self.load()
        with tqdm(total=len(missing), desc="encoding captions", unit="text", disable=None) as bar:
            for start in range(0, len(missing), FILE):
                chunk = missing[start : start + FILE]
                embedding = compute(chunk)
                tensors = {name: tensor.half().cpu() for name, tensor in embedding._asdict().items()}
                content = json.dumps(chunk)
                path = self.folder / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.safetensors"
                files.save(path, tensors, {"texts": content})
                self._note(path, chunk)
                bar.update(len(chunk))

    def embed(self, texts: Sequence[str]) -> TextEmbedding:
        """The embeddings of texts that `ensure` was given, in float32."""
        rows = [(self._file(path), row) for path, row in (self._places[text] for text in texts)]
        return TextEmbedding(
            *(torch.stack([tensors[name][row] for tensors, row in rows]).float() for name in TextEmbedding._fields)
        )

    def _note(self, path: Path, texts: Iterable[str]) -> None:
        for row, text in enumerate(texts):
            self._places.setdefault(text, (path, row))

    def _file(self, path: Path) -> Mapping[str, Tensor]:
        if path not in self._open:
            self._open[path] = files.load(path)
        return self._open[path]
