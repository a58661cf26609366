from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from littlecascade.models.config import StageAConfig
from littlecascade.models.stage_a import StageA
from littlecascade.pipelines import tiles
from littlecascade.pipelines.tiles import decode_in_tiles, reach, tile_side

CONFIG = StageAConfig(levels=2, bottleneck_depth=3, width=16, latent_channels=4, codebook_size=8)


def stage_a(config: StageAConfig = CONFIG) -> StageA:
    """Made-up weights under which every convolution counts."""
    network = StageA(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return network.eval().requires_grad_(False)


def latents(height: int, width: int) -> Tensor:
    return torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(40, 33), (64, 9), (5, 71), (24, 24)])
@pytest.mark.parametrize("side", [24, 30])
def test_tiles_have_no_seam(size: tuple[int, int], side: int) -> None:
    network, given = stage_a(), latents(*size)
    whole = network.decode(given)
    assert (decode_in_tiles(network, given, side) - whole).abs().max() < 1e-4 * whole.std()


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, levels=1), replace(CONFIG, levels=3, bottleneck_depth=1)])
def test_tiles_overlap_as_far_as_the_decoder_looks(config: StageAConfig) -> None:
    network, given = stage_a(config), latents(1, 61)
    changed = given.clone()
    changed[..., 30] += 1
    seen = (network.decode(changed) - network.decode(given)).abs().amax((0, 1, 2)) > 0
    touched = seen.nonzero().flatten() // 2**config.levels
    assert int((touched - 30).abs().max()) <= reach(network)


def test_no_tile_is_larger_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    network = stage_a()
    sides: list[int] = []
    decode = network.decode
    monkeypatch.setattr(network, "decode", lambda part: sides.extend(part.shape[2:]) or decode(part))
    decode_in_tiles(network, latents(100, 47), 32)
    assert max(sides) <= 32
    assert len(sides) > 6


def test_tiles_shrink_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = []
    for free in (64, 2.5, 1.5, 0):
        monkeypatch.setattr(tiles, "free_memory", lambda device, free=free: free * 2**30)
        sides.append(tile_side(torch.device("cpu"), torch.float32))
    assert sides == sorted(sides, reverse=True)
    assert (sides[0], sides[-1]) == (tiles.LARGEST, tiles.SMALLEST)
    assert len(set(sides)) == 4
