from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from littlecascade import Cascade
from littlecascade.checkpoint.networks import ROLES, save_network
from littlecascade.conditioning import tokenizer
from littlecascade.conditioning.clip import TextConfig, TextTower, VisionConfig, VisionTower
from littlecascade.conditioning.image import ImageEncoder
from littlecascade.conditioning.text import TextEncoder
from littlecascade.models.config import PreviewerConfig, StageAConfig, to_dict
from littlecascade.presets import TINY, Drawing

WORDS = ["a red apple on a green table", "a small dog", "the quick brown fox jumps over the lazy dog", "pizza"]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model of small networks with made-up weights, none of them at zero, that draws 64 x 64 pictures."""
    folder = tmp_path_factory.mktemp("model")
    generator = torch.Generator().manual_seed(7)
    prior = replace(
        TINY.stage_c.trunk, widths=(32, 32), heads=(2, 2), cond_width=32, down_depths=(1, 1), up_depths=(1, 1)
    )
    decoder = replace(
        TINY.stage_b.trunk,
        widths=(16, 24, 32),
        heads=(0, 0, 2),
        cond_width=24,
        down_depths=(1, 1, 1),
        up_depths=(1, 1, 1),
    )
    configs = {
        "stage_a": StageAConfig(bottleneck_depth=1, width=32, codebook_size=64),
        "stage_b": replace(TINY.stage_b, trunk=decoder, pooled_width=24),
        "stage_c": replace(TINY.stage_c, trunk=prior, text_width=32, pooled_width=24, image_width=24),
        "compressor": replace(TINY.compressor, head=32),
        "previewer": PreviewerConfig(widths=(32, 16), patch=4),
    }
    for role, config in configs.items():
        network = ROLES[role].network(config)
        network.initialise(generator)
        for name, parameter in network.named_parameters():
            if name.startswith("clf"):  # starts at zero, and would predict nothing
                torch.nn.init.normal_(parameter, std=0.1, generator=generator)
        notes = {"target": "v"} if role in ("stage_b", "stage_c") else {}
        save_network(role, network, folder / ROLES[role].file, dtype=torch.float32, notes=notes)
    words = tokenizer.train(WORDS, 520)
    torch.manual_seed(3)
    tower = TextTower(TextConfig(32, 2, 2, 24, vocab_size=len(words.vocabulary), positions=10))
    TextEncoder(tower, words).save(folder / "text")
    ImageEncoder(VisionTower(VisionConfig(32, 2, 2, 24, image_size=32, patch=8))).save(folder / "image")
    drawing = Drawing(image_size=64, compression=32.0, sampler="dpmpp_2m", steps=3, decoder_steps=2, guidance=3.0)
    (folder / "cascade.json").write_text(json.dumps(to_dict(drawing)), "utf-8")
    return folder


@pytest.fixture(scope="session")
def gradient() -> Callable[[int, int], Image.Image]:
    """Makes a picture of a width and a height: red from left to right, green from top to bottom."""

    def make(width: int, height: int) -> Image.Image:
        x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
        return Image.fromarray(np.stack([x, y, np.full_like(x, 90)], axis=-1).astype(np.uint8))

    return make


@pytest.fixture(scope="session")
def noise() -> Callable[[int, int, int], Image.Image]:
    """Makes a picture of a width, a height and a seed, with every value by chance."""

    def make(width: int, height: int, seed: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))

    return make


@pytest.fixture(scope="session")
def grey_levels() -> Callable[[Image.Image, Image.Image], int]:
    """The greatest difference between two pictures of one size."""

    def measure(one: Image.Image, other: Image.Image) -> int:
        assert one.size == other.size
        return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())

    return measure


@pytest.fixture(scope="session")
def cascade(model_folder: Path) -> Cascade:
    return Cascade.load(str(model_folder), device="cpu")


@pytest.fixture(scope="session")
def tiny() -> Cascade:
    """The shipped weights, for what only a picture can show. They are replaced now and then."""
    return Cascade.load("tiny", device="cpu")
