from __future__ import annotations

import pytest

from littlecascade.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_the_parts_of_a_preset_fit_together(name: str) -> None:
    preset = PRESETS[name]
    latents = preset.compressor.latent_channels
    assert preset.name == name
    assert preset.stage_c.trunk.in_channels == preset.stage_c.trunk.out_channels == latents
    assert preset.stage_b.effnet_channels == preset.previewer.latent_channels == latents
    assert preset.stage_b.trunk.in_channels == preset.stage_b.trunk.out_channels == preset.stage_a.latent_channels
    assert preset.stage_c.text_width == preset.text.width
    assert preset.stage_c.pooled_width == preset.stage_b.pooled_width == preset.text.projection
    assert preset.stage_c.image_width == preset.image.projection
    assert all(
        before.out_channels == after.in_channels
        for before, after in zip(preset.compressor.stages, preset.compressor.stages[1:], strict=False)
    )
    assert preset.compressor.stages[0].in_channels == preset.compressor.stem
