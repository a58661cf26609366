from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from littlecascade import load_latents
from littlecascade.recipe import read_recipe

LINE = re.compile(
    r"(\S+)  PSNR (\d+\.\d) dB, SSIM (\d\.\d{3}), compressed (\d+) times \((\d+\.\d) along a side\)", re.ASCII
)


def test_original_and_reconstruction_stand_side_by_side_and_are_compared(disc: str, here: Path, draw) -> None:
    (line,) = draw("reconstruct", disc, "--size", "128")
    found = LINE.fullmatch(line)
    assert found is not None
    assert found[1] == "disc-reconstruction.png"
    with Image.open("disc-reconstruction.png") as image, Image.open(disc) as source:
        pair = np.asarray(image, dtype=float)
        original = np.asarray(source.resize((128, 128), Image.Resampling.LANCZOS), dtype=float)
    assert pair.shape == (128, 256, 3)
    assert np.array_equal(pair[:, :128], original)
    error = ((pair[:, 128:] - pair[:, :128]) ** 2).mean()
    assert float(found[2]) == pytest.approx(10 * np.log10(255**2 / error), abs=0.06)
    assert float(found[4]) == 3 * 128 * 128 / (16 * 4 * 4)
    assert float(found[5]) == 32
    assert read_recipe(Path("disc-reconstruction.png"))["sources"][0]["path"] == disc


def test_pictures_of_several_shapes_are_taken_one_at_a_time(disc: str, here: Path, draw) -> None:
    Image.new("L", (300, 100), 128).save("wide.jpg")
    lines = draw("reconstruct", disc, "wide.jpg", "--save-latents", "latents.safetensors")
    assert [line.split("  ")[0] for line in lines] == [
        "disc-reconstruction.png",
        "latents-1.safetensors",
        "wide-reconstruction.png",
        "latents-2.safetensors",
    ]
    assert load_latents("latents-2.safetensors").shape == (1, 16, 3, 7)  # 224 x 72 pixels


def test_a_broken_picture_is_told_before_the_first_is_drawn(disc: str, here: Path, fail) -> None:
    Path("broken.png").write_bytes(Path(disc).read_bytes()[:60])
    assert "broken.png" in fail("reconstruct", disc, "broken.png")
    Image.new("L", (30000, 20)).save("long.png")
    assert "too long" in fail("reconstruct", disc, "long.png")
    assert not list(here.glob("*-reconstruction.png"))
