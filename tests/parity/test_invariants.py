"""What holds of every picture, whatever the size and the batch."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from littlecascade import Cascade
from littlecascade.checkpoint.networks import ROLES, save_network
from littlecascade.conditioning import tokenizer
from littlecascade.conditioning.clip import TextConfig, TextTower
from littlecascade.conditioning.text import TextEncoder
from littlecascade.models.config import StageAConfig, StageBConfig, StageCConfig, TrunkConfig, to_dict
from littlecascade.presets import LITE

PROMPTS = ["a red apple", "two small dogs on a green hill", "a blue car", "pizza", "", "a tree", "a house", "rain"]

NARROW = {
    "stage_a": StageAConfig(bottleneck_depth=1, width=8, codebook_size=4),
    "stage_b": StageBConfig(
        TrunkConfig(
            in_channels=4,
            out_channels=4,
            patch=2,
            cond_width=8,
            widths=(4, 4, 8, 8),
            heads=(0, 0, 2, 2),
            down_depths=(1, 1, 1, 1),
            up_depths=(1, 1, 1, 1),
            down_repeats=(1, 1, 1, 1),
            up_repeats=(1, 1, 2, 1),
            layouts=("CT", "CT", "CTA", "CTA"),
            dropout=(0.0, 0.0, 0.0, 0.0),
            time_conditions=("sca",),
        ),
        pooled_width=8,
    ),
    "stage_c": StageCConfig(
        TrunkConfig(
            in_channels=16,
            out_channels=16,
            patch=1,
            cond_width=8,
            widths=(8, 8),
            heads=(2, 2),
            down_depths=(1, 1),
            up_depths=(1, 1),
            down_repeats=(1, 1),
            up_repeats=(1, 1),
            layouts=("CTA", "CTA"),
            dropout=(0.0, 0.0),
            switch_level=(False,),
        ),
        text_width=8,
        pooled_width=8,
        image_width=8,
    ),
}
"""The official levels, layouts and channels, a few thousand weights in all."""


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Cascade:
    """A model with made-up weights that draws at the official sizes."""
    folder = tmp_path_factory.mktemp("narrow")
    generator = torch.Generator().manual_seed(1)
    for role, config in NARROW.items():
        network = ROLES[role].network(config)
        network.initialise(generator)
        if role != "stage_a":
            nn.init.normal_(network.get_parameter("clf.1.weight"), generator=generator)  # zero would predict nothing
        save_network(role, network, folder / ROLES[role].file, dtype=torch.float32)
    words = tokenizer.train(PROMPTS, 515)
    torch.manual_seed(0)
    tower = TextTower(TextConfig(8, 1, 2, 8, vocab_size=len(words.vocabulary), positions=10))
    TextEncoder(tower, words).save(folder / "text")
    (folder / "cascade.json").write_text(json.dumps(to_dict(LITE.drawing)), "utf-8")
    return Cascade.load(str(folder), device="cpu")


side = st.integers(256 // 8, 2048 // 8).map(lambda eighths: 8 * eighths)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(width=side, height=side, count=st.integers(1, 3))
def test_any_size_and_batch_is_drawn(narrow: Cascade, width: int, height: int, count: int) -> None:
    """Every shape within 256 to 2048, and so all from 1:8 to 8:1."""
    result = narrow.generate("pizza", n=count, seed=0, size=(width, height), steps=1, decoder_steps=1)
    assert [image.size for image in result.images] == [(width, height)] * count
    assert result.latents.shape == (count, 16, math.ceil(height / 42.67), math.ceil(width / 42.67))
    assert result.latents.isfinite().all()
    assert all(np.asarray(image).std() > 1 for image in result.images)


@pytest.mark.parametrize("size", [(256, 1024), (1024, 256), (2048, 512), (512, 2048)])
def test_the_longest_shapes_are_drawn(narrow: Cascade, size: tuple[int, int]) -> None:
    assert narrow.generate("pizza", seed=0, size=size, steps=1, decoder_steps=1).images[0].size == size


@pytest.mark.slow
def test_eight_pictures_at_once_are_the_eight_alone() -> None:
    """With the shipped weights and their own settings, each picture from words of its own."""
    tiny = Cascade.load("tiny", device="cpu", precision="float32")
    together = tiny.generate(PROMPTS, seed=20)
    for number, (prompt, picture) in enumerate(zip(PROMPTS, together.images, strict=True)):
        alone = tiny.generate(prompt, seed=20 + number)
        assert grey_levels(picture, alone.images[0]) <= 1
        assert grey_levels(picture, together.images[number - 1]) > 8


def grey_levels(one: Image.Image, other: Image.Image) -> int:
    """The greatest difference between two pictures of one size."""
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())
