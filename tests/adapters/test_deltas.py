from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from littlecascade.adapters.deltas import KINDS, Delta, DoRA, LoHa, LoKr, LoRA
from littlecascade.adapters.parts import Parts, fused

OUT, IN, RANK = 12, 10, 3


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def lora() -> tuple[Delta, Callable[[Tensor], Tensor]]:
    up, down = normal(OUT, RANK), normal(RANK, IN)
    return LoRA(up, down, 2.0), lambda w: up @ down * (2 / RANK)


def dora_rows() -> tuple[Delta, Callable[[Tensor], Tensor]]:
    up, down, lengths = normal(OUT, RANK), normal(RANK, IN), normal(OUT, 1)

    def change(w: Tensor) -> Tensor:
        moved = w + up @ down * (2 / RANK)
        return lengths * moved / moved.norm(dim=1, keepdim=True) - w

    return DoRA(up, down, lengths, 2.0), change


def dora_columns() -> tuple[Delta, Callable[[Tensor], Tensor]]:
    up, down, lengths = normal(OUT, RANK), normal(RANK, IN), normal(1, IN)

    def change(w: Tensor) -> Tensor:
        moved = w + up @ down * (2 / RANK)
        return lengths * moved / moved.norm(dim=0, keepdim=True) - w

    return DoRA(up, down, lengths, 2.0), change


def loha() -> tuple[Delta, Callable[[Tensor], Tensor]]:
    a1, b1, a2, b2 = normal(OUT, RANK), normal(RANK, IN), normal(OUT, RANK), normal(RANK, IN)
    return LoHa(a1, b1, a2, b2, 2.0), lambda w: (a1 @ b1) * (a2 @ b2) * (2 / RANK)


def lokr_whole() -> tuple[Delta, Callable[[Tensor], Tensor]]:
    w1, w2 = normal(3, 2), normal(4, 5)
    return LoKr({"w1": w1, "w2": w2}, 2.0), lambda w: torch.kron(w1, w2)  # alpha does not count


def lokr_products() -> tuple[Delta, Callable[[Tensor], Tensor]]:
    factors = {"w1_a": normal(3, 2), "w1_b": normal(2, 2), "w2_a": normal(4, 2), "w2_b": normal(2, 5)}

    def change(w: Tensor) -> Tensor:
        return torch.kron(factors["w1_a"] @ factors["w1_b"], factors["w2_a"] @ factors["w2_b"]) * (2 / 2)

    return LoKr(factors, 2.0), change


@pytest.fixture(params=[lora, dora_rows, dora_columns, loha, lokr_whole, lokr_products], ids=lambda f: f.__name__)
def pair(request: pytest.FixtureRequest) -> tuple[Delta, Callable[[Tensor], Tensor]]:
    """A change, and the matrix that it should be, from its definition, for a weight."""
    torch.manual_seed(4)
    return request.param()


@torch.no_grad()
def test_the_path_and_the_matrix_are_what_the_definition_says(pair: tuple[Delta, Callable[[Tensor], Tensor]]) -> None:
    delta, change = pair
    weight, x = normal(OUT, IN), normal(2, 7, IN)
    assert delta.shape == (OUT, IN)
    torch.testing.assert_close(delta.matrix(weight), change(weight).float(), rtol=1e-5, atol=1e-5)
    whole = delta(x, F.linear(x, weight), weight)
    torch.testing.assert_close(whole, F.linear(x, change(weight)), rtol=1e-6, atol=1e-6)
    some = delta(x, F.linear(x, weight[5:9]), weight, 5)
    torch.testing.assert_close(some, whole[..., 5:9])


@torch.no_grad()
def test_cut_in_three_it_is_the_same(pair: tuple[Delta, Callable[[Tensor], Tensor]]) -> None:
    delta, _ = pair
    weight, x = normal(OUT, IN), normal(2, 7, IN)
    if isinstance(delta, DoRA) and not delta.by_row:
        pytest.skip("its lengths run over all three")
    parts = Parts([*delta.cut()])
    torch.testing.assert_close(parts.matrix(weight), delta.matrix(weight))
    for rows in (slice(0, OUT), slice(4, OUT), slice(3, 9)):
        base = F.linear(x, weight[rows])
        own, whole = (change(x, base, weight, rows.start) for change in (parts, delta))
        torch.testing.assert_close(own, whole, rtol=1e-6, atol=1e-6)  # lengths are float32


@torch.no_grad()
def test_thirds_make_one_lora() -> None:
    torch.manual_seed(4)
    down = normal(RANK, IN)
    shared = Parts([LoRA(normal(4, RANK), down, 2.0) for _ in range(3)])
    apart = Parts([LoRA(normal(4, 1 + n), normal(1 + n, IN), 5.0) for n in range(3)])
    gap = Parts([None, LoRA(normal(4, 2), normal(2, IN), 3.0), None])
    for parts, rank in ((shared, RANK), (apart, 6), (gap, 2)):
        one = fused(parts)
        assert type(one) is LoRA
        assert one.rank == rank
        torch.testing.assert_close(one.matrix(normal(OUT, IN)), parts.matrix(normal(OUT, IN)))


@pytest.mark.parametrize("rank", [1, 4, 64])
def test_at_the_start_nothing_changes(kind: str, rank: int) -> None:
    weight = torch.randn(24, 20)
    for is_fused in (False, True):
        delta = KINDS[kind].create(weight, rank, torch.Generator().manual_seed(0), is_fused)
        assert delta.shape == (24, 20)
        torch.testing.assert_close(delta.matrix(weight), torch.zeros(24, 20), rtol=0, atol=1e-6)
        assert len(delta.cut()) == 3 if is_fused else True


def test_dropout_works_in_training_alone() -> None:
    torch.manual_seed(0)
    delta, x = LoRA(torch.randn(6, 2), torch.randn(2, 500), dropout=0.5), torch.ones(1, 500)
    base, weight = torch.zeros(1, 6), torch.zeros(6, 500)
    trained = torch.stack([delta(x, base, weight) for _ in range(400)])
    still = delta.eval()(x, base, weight)
    torch.testing.assert_close(still, F.linear(x, delta.up @ delta.down))
    assert trained.std(dim=0).min() > 1
    torch.testing.assert_close(trained.mean(dim=0), still, rtol=0, atol=6.0)  # four deviations of the mean


def test_a_lokr_that_can_not_be_cut_is_told() -> None:
    from littlecascade.errors import InputError

    with pytest.raises(InputError, match="4 rows can't be cut"):
        LoKr({"w1": torch.ones(4, 1), "w2": torch.ones(3, 2)}).cut()
