"""Tensors that frozen networks make of a data set, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm


class TensorCache:
    """Rows of equal shape in a memory-mapped file, float16; `cache[indices]` is float32."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        return torch.from_numpy(self.rows[list(indices)]).float()


@torch.no_grad()
def cached(
    root: Path, name: str, key: str, count: int, compute: Callable[[range], Tensor], batch: int = 64
) -> TensorCache:
    """Open the cache `name` of this `key`, or fill it: `compute(rows)` gives the tensors of a range of rows.

    The key must tell apart whatever changes the result: the data, the networks' weights, the settings.
    A file that is there is complete: it is written under another name and renamed.
    """
    if count < 1:
        raise ValueError("a cache needs at least one row")
    path = root / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    if path.is_file():
        return TensorCache(path)
    root.mkdir(parents=True, exist_ok=True)
    temporary = root / f".{path.stem}-{os.getpid()}.npy"
    output = None
    try:
        for start in tqdm(range(0, count, batch), desc=f"caching {name}", disable=None):
            rows = range(start, min(start + batch, count))
            values = compute(rows).half().cpu().numpy()
            if output is None:
                shape = (count, *values.shape[1:])
                output = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
            output[rows.start : rows.stop] = values
        del output  # closes the file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return TensorCache(path)


def fingerprint(*modules: nn.Module) -> str:
    """A hash of all weights of some modules: equal for equal weights, whatever file they came from."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
