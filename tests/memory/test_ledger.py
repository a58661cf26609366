"""Bytes counted by hand."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import GradientEdge
from torch.utils.checkpoint import checkpoint

from littlecascade.memory.ledger import OTHER, Ledger

MATRIX = 64 * 64 * 4  # bytes of the float32 matrices below


def matrix(**options: object) -> Tensor:
    return torch.zeros(64, 64, **options)  # pyright: ignore


def test_a_storage_counts_once_and_until_its_last_tensor_dies() -> None:
    with Ledger() as ledger:
        one = matrix()
        rows, turned = one[:10], one.T
        assert ledger.live == MATRIX
        del one, rows
        assert ledger.live == MATRIX
        del turned
        assert ledger.live == 0


def test_what_works_in_place_takes_nothing() -> None:
    with Ledger() as ledger:
        one = matrix()
        one.add_(1).mul_(2).relu_()
        one[0] = 3.0
        assert ledger.live == MATRIX


def test_number_formats_and_blocks() -> None:
    with Ledger(block=512) as ledger:
        kept = [torch.zeros(100, dtype=torch.float16), torch.zeros(3, dtype=torch.int64), torch.zeros(513).bool()]
        assert ledger.live == 512 + 512 + 1024
        del kept
        assert ledger.live == 0


def test_the_peak_of_a_phase_is_told_by_kinds() -> None:
    weights = matrix()
    with Ledger() as ledger:
        ledger.mark("weights", [weights, weights.T])
        with ledger.phase("first"):
            made = [matrix() for _ in range(3)]
            ledger.mark("optimizer", made[:1])
            del made[1:]
            later = matrix()
        with ledger.phase("second"):
            del later
    first, second = ledger.peaks
    assert first.bytes == {"weights": MATRIX, "optimizer": MATRIX, OTHER: 2 * MATRIX}
    assert second.bytes == {"weights": MATRIX, "optimizer": MATRIX, OTHER: MATRIX}
    assert (first.phase, first.total) == ("first", 4 * MATRIX)


def test_a_kind_may_be_known_only_after_the_peak() -> None:
    """Of a gradient it is known when it has arrived, of a state when the update is over."""
    with Ledger() as ledger, ledger.phase("only"):
        gradient = matrix()
        more = matrix()
        del more
        ledger.mark("gradients", [gradient])
        del gradient
    assert ledger.peaks[0].bytes == {"gradients": MATRIX, OTHER: MATRIX}


def test_what_is_made_in_a_while_can_be_given_one_kind() -> None:
    with Ledger() as ledger, ledger.phase("only"):
        with ledger.kind("weights"):
            kept = [matrix(), matrix()]
        ledger.mark("averages", kept[1:])
        more = [matrix(), matrix()]
    assert ledger.peaks[0].bytes == {"weights": MATRIX, "averages": MATRIX, OTHER: 2 * MATRIX}
    assert len(more) == 2


class Chain(nn.Module):
    """`sigmoid` keeps its result for the backward pass, and nothing else does."""

    def __init__(self, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            x = checkpoint(self.block, x, use_reentrant=False) if self.recompute else self.block(x)
        return x

    def block(self, x: Tensor) -> Tensor:
        return x.sigmoid().sigmoid().sigmoid()


@pytest.mark.parametrize("fake", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_saved_activations_live_until_the_backward_pass_has_used_them(recompute: bool, fake: bool) -> None:
    with FakeTensorMode() if fake else nullcontext(), Ledger() as ledger:
        x, gradient = matrix().requires_grad_(), matrix()
        with ledger.phase("forward"):
            result = Chain(recompute)(x)
        with ledger.phase("backward"):
            graph = result.grad_fn
            del result
            torch.autograd.backward(GradientEdge(graph, 0), gradient)
            del graph
        assert ledger.live == 3 * MATRIX
    forward, backward = (peak.total // MATRIX - 2 for peak in ledger.peaks)
    # each sigmoid's result; or each block's, and one more while the last of them is computed
    assert forward == (5 if recompute else 12)
    # all of these and the gradient after the first; or three blocks' results, the last block's own three, that gradient
    assert backward == (7 if recompute else 13)
