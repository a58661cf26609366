from __future__ import annotations

import math

import pytest
import torch

from littlecascade.nn.embeddings import time_embedding


@pytest.mark.parametrize("time", [0.0, 0.25, 0.9999, 1.0])
def test_time_embedding_is_the_sines_then_the_cosines(time: float) -> None:
    embedded = time_embedding(torch.tensor([time]), 8)
    frequencies = [10_000 ** (-i / 3) for i in range(4)]
    expected = [math.sin(time * 10_000 * f) for f in frequencies] + [math.cos(time * 10_000 * f) for f in frequencies]
    torch.testing.assert_close(embedded[0], torch.tensor(expected), atol=2e-3, rtol=0)  # sines of up to 10000 radians
    assert embedded.dtype == torch.float32
