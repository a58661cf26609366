from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from littlecascade.nn import quantize
from littlecascade.nn.quantize import VectorQuantizer


def make(size: int = 16, width: int = 3, seed: int = 0) -> VectorQuantizer:
    quantizer = VectorQuantizer(size, width)
    quantizer.initialise(torch.Generator().manual_seed(seed))
    return quantizer


@given(seed=st.integers(0, 1000), size=st.integers(1, 40))
def test_nearest_is_the_nearest_by_exhaustive_search(seed: int, size: int) -> None:
    quantizer = make(size, seed=seed)
    z = torch.randn(20, 3, generator=torch.Generator().manual_seed(seed))
    distances = (z[:, None] - quantizer.codebook.weight).square().sum(2)
    chosen = distances.gather(1, quantizer.nearest(z)[:, None]).squeeze(1)
    torch.testing.assert_close(chosen, distances.amin(1), rtol=1e-4, atol=1e-5)


def test_chunks_change_nothing(monkeypatch) -> None:
    quantizer, z = make(), torch.randn(50, 3)
    whole = quantizer.nearest(z)
    monkeypatch.setattr(quantize, "_CHUNK", 7)
    assert torch.equal(quantizer.nearest(z), whole)


def test_a_code_is_its_own_nearest_in_every_precision() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        quantizer = make().to(dtype)
        codes = quantizer.codebook.weight.detach()
        result = quantizer(codes.T[None, :, None])
        assert result.indices.flatten().tolist() == list(range(16))
        assert torch.equal(result.vectors, codes.T[None, :, None])
        assert result.codebook_loss == 0
        assert result.codebook_loss.dtype == torch.float32


def test_vectors_are_codes_exactly_and_the_gradient_passes_straight_through() -> None:
    quantizer = make().to(torch.bfloat16)
    z = torch.randn(2, 3, 4, 5).to(torch.bfloat16).requires_grad_()
    result = quantizer(z)
    assert torch.equal(result.vectors, quantizer.codebook.weight[result.indices].permute(0, 3, 1, 2))
    weights = torch.randn(2, 3, 4, 5).to(torch.bfloat16)
    (result.vectors * weights).sum().backward()
    assert torch.equal(z.grad, weights)
    assert quantizer.codebook.weight.grad is None


def test_each_loss_moves_its_own_side_only() -> None:
    quantizer = make()
    z = torch.randn(2, 3, 4, 5, requires_grad=True)
    result = quantizer(z)
    difference = z - quantizer.codebook.weight[result.indices].permute(0, 3, 1, 2)
    codebook = quantizer.codebook.weight
    (to_z,) = torch.autograd.grad(result.commitment_loss, z, retain_graph=True)
    torch.testing.assert_close(to_z, 2 * difference.detach() / z.numel())
    assert torch.autograd.grad(result.commitment_loss, codebook, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(result.codebook_loss, z, retain_graph=True, allow_unused=True) == (None,)
    (to_codes,) = torch.autograd.grad(result.codebook_loss, codebook)
    unused = torch.ones(16, dtype=torch.bool)
    unused[result.indices.unique()] = False
    assert to_codes[unused].eq(0).all()
    assert to_codes[~unused].ne(0).any(1).all()
