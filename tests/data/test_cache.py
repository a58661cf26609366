from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from littlecascade.data.cache import cached, fingerprint

VALUES = torch.arange(30.0).view(10, 3) / 8  # exact in float16


def test_rows_are_computed_once_per_key(tmp_path: Path) -> None:
    asked: list[range] = []

    def compute(rows: range) -> Tensor:
        asked.append(rows)
        return VALUES[list(rows)]

    cache = cached(tmp_path, "x", "key", 10, compute, batch=4)
    assert asked == [range(4), range(4, 8), range(8, 10)]
    assert len(cache) == 10
    assert cache[[7, 0]].dtype == torch.float32
    assert torch.equal(cache[[7, 0]], VALUES[[7, 0]])
    assert torch.equal(cached(tmp_path, "x", "key", 10, compute)[range(10)], VALUES)
    assert len(asked) == 3
    cached(tmp_path, "x", "another", 10, compute, batch=10)
    cached(tmp_path, "y", "key", 10, compute, batch=10)
    assert len(asked) == 5


def test_a_crash_while_filling_leaves_nothing(tmp_path: Path) -> None:
    def crash(rows: range) -> Tensor:
        if rows.start:
            raise KeyboardInterrupt
        return VALUES[list(rows)]

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, "x", "key", 10, crash, batch=4)
    assert list(tmp_path.iterdir()) == []


def test_fingerprints_tell_weights_apart_and_nothing_else() -> None:
    layer, same, other = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)
    same.load_state_dict(layer.state_dict())
    assert fingerprint(layer) == fingerprint(same) != fingerprint(other)
    assert fingerprint(layer, other) != fingerprint(other, layer)
    with torch.no_grad():
        same.bias[0] += 1e-7
    assert fingerprint(layer) != fingerprint(same)
