from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from littlecascade.adapters.injection import Deltas, Layer
from littlecascade.adapters.merge import extract, merge
from littlecascade.errors import InputError


@torch.no_grad()
def test_what_was_merged_is_extracted(stage_c: nn.Module, trained: Callable[..., Deltas]) -> None:
    base, deltas = stage_c.state_dict(), trained(stage_c)
    tuned = merge(base, stage_c, [Layer(deltas)])
    found, kept = extract(base, tuned, stage_c, rank=3)
    assert kept == pytest.approx(1, abs=1e-4)
    assert found.by_site.keys() == deltas.by_site.keys()
    for name, delta in found.by_site.items():
        assert delta.rank == 3
        expected = deltas.by_site[name].matrix(torch.empty(0))
        torch.testing.assert_close(delta.matrix(torch.empty(0)), expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_it_holds_the_largest_singular_values(stage_c: nn.Module) -> None:
    """Against torch's exact decomposition of a difference of full rank."""
    base = stage_c.state_dict()
    name = "down_blocks.0.2.attention.attn.out_proj"
    generator = torch.Generator().manual_seed(0)
    difference = torch.randn(64, 64, generator=generator) * torch.logspace(0, -2, 64)
    tuned = base | {f"{name}.weight": base[f"{name}.weight"] + difference}
    found, kept = extract(base, tuned, stage_c, rank=8, filters=[name])
    values = torch.linalg.svdvals(difference).square()
    assert kept == pytest.approx(float(values[:8].sum() / values.sum()), abs=1e-4)
    left = (difference - found.by_site[name].matrix(difference)).square().sum()
    assert float(left) == pytest.approx(float(values[8:].sum()), rel=1e-2)
    again, _ = extract(base, tuned, stage_c, rank=8, filters=[name])
    assert torch.equal(again.by_site[name].up, found.by_site[name].up)


def test_mistakes_are_told(stage_c: nn.Module) -> None:
    base = stage_c.state_dict()
    with pytest.raises(InputError, match="do not differ"):
        extract(base, base, stage_c, rank=4)
    with pytest.raises(InputError, match="Rank 0"):
        extract(base, base, stage_c, rank=0)
