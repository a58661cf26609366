"""Drawing against diffusers' pipelines and scheduler, with the same weights, words and noise, in float32.

The weights reach diffusers through a folder that `checkpoint.convert` wrote in its format. What `benchmarks/parity.py`
says of the differences on purpose holds here too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from littlecascade.data.pixels import to_image
from littlecascade.presets import PRESETS

ROOT = Path(__file__).parents[2]
BOUND = 1e-4  # of a standard deviation, for the greatest difference

MakeCase = Callable[..., Any]


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    path = ROOT / "benchmarks" / "parity.py"
    spec = spec_from_file_location("benchmarks_parity", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def made_up(parity: ModuleType, tmp_path: Path) -> MakeCase:
    """Makes a case of the layers of a size, so many times narrower, for pictures of a size."""

    def make(name: str, divisor: int, size: tuple[int, int]) -> Any:
        return parity.made_up_case(parity.narrowed(PRESETS[name], divisor), size, 2, tmp_path)

    return make


@pytest.fixture(scope="module")
def shipped(parity: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The shipped weights, which are trained, drawing 128 x 128."""
    return parity.case_of_model("tiny", (128, 128), 2, tmp_path_factory.mktemp("shipped"))


def assert_equal(parity: ModuleType, ours: Any, theirs: Any) -> None:
    for own, other in zip(ours, theirs, strict=True):
        assert own.shape == other.shape
        assert other.std() > 0.1
        assert parity.difference(own, other) < BOUND


@pytest.mark.parametrize(
    ("name", "divisor", "size"),
    [
        ("tiny", 4, (256, 256)),
        pytest.param("lite", 16, (384, 256), marks=pytest.mark.slow),
        pytest.param("full", 16, (256, 384), marks=pytest.mark.slow),
    ],
)
def test_all_layers_of_a_size_draw_as_diffusers(
    parity: ModuleType, made_up: MakeCase, name: str, divisor: int, size: tuple[int, int]
) -> None:
    case = made_up(name, divisor, size)
    ours = parity.draw_ours(case)
    assert ours.pixels.shape == (2, 3, size[1], size[0])
    assert_equal(parity, ours, parity.draw_theirs(case))


def test_guidance_may_be_off_in_stage_c_and_on_in_stage_b(parity: ModuleType, made_up: MakeCase) -> None:
    case = made_up("tiny", 4, (256, 128))
    plain = parity.draw_ours(case)
    case = replace(case, prior=replace(case.prior, guidance=1.0), decoder=replace(case.decoder, guidance=1.5))
    ours = parity.draw_ours(case)
    assert parity.difference(ours.latents, plain.latents) > 100 * BOUND
    assert_equal(parity, ours, parity.draw_theirs(case))


def test_the_shipped_weights_draw_the_same_pictures_in_diffusers(parity: ModuleType, shipped: Any) -> None:
    theirs = parity.draw_theirs(shipped)
    result = shipped.cascade.generate(
        list(parity.PROMPTS[:2]),
        seed=shipped.seeds[0],
        negative=parity.NEGATIVE,
        guidance=shipped.prior.guidance,
        rescale=0.0,
        sampler="ddpm",
        decoder_sampler="ddpm",
        decoder_steps=shipped.decoder.steps,
        decoder_guidance=shipped.decoder.guidance,
    )
    assert parity.difference(result.latents, theirs.latents) < BOUND
    for picture, pixels in zip(result.images, theirs.pixels, strict=True):
        assert grey_levels(picture, pixels) <= 1


@pytest.mark.slow
def test_what_differs_on_purpose_is_as_large_as_the_documentation_says(parity: ModuleType, shipped: Any) -> None:
    """The figures in docs/differences.md, which has them to one digit, are those of the shipped weights."""
    found = parity.measure(shipped)
    assert found.pop("reconciled")[0] < BOUND
    text = (ROOT / "docs" / "differences.md").read_text("utf-8").partition("## Against diffusers")[2]
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    for (name, differences), row in zip(found.items(), rows, strict=True):
        for difference, stated in zip(differences, map(float, row), strict=True):
            assert stated / 1.5 < difference < stated * 1.5, name


def grey_levels(picture: Image.Image, pixels: Tensor) -> int:
    """The greatest difference between a picture and pixels (3, H, W)."""
    expected = np.asarray(to_image(pixels), np.int16)
    return int(np.abs(np.asarray(picture, np.int16) - expected).max())
