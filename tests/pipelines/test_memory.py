"""Where the networks are and in which format they compute, seen from the pictures that are drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from littlecascade import Cascade, InputError
from littlecascade.checkpoint.formats import FORMATS
from littlecascade.pipelines import drawing
from littlecascade.pipelines.components import LARGE, Components
from littlecascade.pipelines.conversion import convert_model
from littlecascade.recipe import Recipe

GreyLevels = Callable[[Image.Image, Image.Image], int]
PROMPTS = ["pizza", "a small dog", "a red apple on a green table"]


@pytest.mark.parametrize("offload", ["stage", "block"])
def test_making_room_changes_nothing(
    model_folder: Path, cascade: Cascade, gradient: Callable[..., Image.Image], offload: str
) -> None:
    spare = Cascade.load(str(model_folder), device="cpu", offload=offload)
    picture = gradient(64, 80)
    for one, other in (
        (spare.generate(PROMPTS, seed=1), cascade.generate(PROMPTS, seed=1)),
        (spare.vary(picture, "pizza", seed=1), cascade.vary(picture, "pizza", seed=1)),
        (spare.edit(picture, "pizza", seed=1), cascade.edit(picture, "pizza", seed=1)),
        (spare.reconstruct(picture), cascade.reconstruct(picture)),
    ):
        assert [image.tobytes() for image in one.images] == [image.tobytes() for image in other.images]


def test_one_large_network_is_in_memory_at_a_time_and_is_read_once(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "BATCH", 1)
    loaded: list[list[str]] = []
    get = Components._get

    def watched(self: Components, role: str, load: Callable[[], object]) -> object:
        known = role in self._loaded
        network = get(self, role, load)
        if not known and role in LARGE:
            loaded.append([own for own in self._loaded if own in LARGE])
        return network

    monkeypatch.setattr(Components, "_get", watched)
    spare = Cascade.load(str(model_folder), device="cpu", offload="stage")
    spare.generate(PROMPTS, seed=1)
    assert loaded == [["text"], ["stage_c"], ["stage_b"]]
    assert not set(LARGE) & set(spare.components._loaded)  # Stage A had the memory for itself


def test_pictures_come_one_by_one_where_all_networks_stay(cascade: Cascade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "BATCH", 1)
    events: list[str] = []

    def on_step(stage: str, *_: object) -> None:
        events.append(stage)

    def on_picture(number: int, image: Image.Image, recipe: Recipe) -> None:
        events.append(str(number))

    options = {"steps": 1, "decoder_steps": 1}
    cascade.generate(PROMPTS, seed=1, callback=on_step, on_picture=on_picture, **options)
    assert events == ["c", "b", "0", "c", "b", "1", "c", "b", "2"]


@pytest.mark.parametrize("form", FORMATS)
def test_pictures_are_the_same_from_every_format(
    model_folder: Path, cascade: Cascade, gradient: Callable[..., Image.Image], tmp_path: Path, form: str
) -> None:
    convert_model(str(model_folder), tmp_path / "x", form)
    other = Cascade.load(str(tmp_path / "x"), device="cpu")
    picture = gradient(64, 64)
    for one, expected in (
        (other.generate("pizza", seed=1), cascade.generate("pizza", seed=1)),
        (other.vary(picture, seed=1), cascade.vary(picture, seed=1)),
        (other.reconstruct(picture), cascade.reconstruct(picture)),
    ):
        assert one.images[0].tobytes() == expected.images[0].tobytes()


def mean_difference(one: list[Image.Image], other: list[Image.Image]) -> float:
    pairs = zip(one, other, strict=True)
    return float(np.mean([np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).mean() for a, b in pairs]))


@pytest.mark.parametrize(("precision", "most"), [("float16", 1.0), ("bfloat16", 4.0), ("int8", 4.0)])
def test_shorter_numbers_draw_nearly_the_same(tiny: Cascade, precision: str, most: float) -> None:
    prompts = ["red apple", "cat face", "sunflower", "rocket, flat style"]
    short = Cascade.load("tiny", device="cpu", precision=precision)
    expected = tiny.generate(prompts, seed=0).images
    drawn = short.generate(prompts, seed=0)
    assert 0 < mean_difference(drawn.images, expected) < most
    assert drawn.recipe["precision"] == precision
    assert mean_difference(expected[1:], expected[:-1]) > 20  # what other pictures are apart


def test_numbers_that_are_none_are_told(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Cascade.load(str(model_folder), device="cpu")
    broken.components.stage_b.get_parameter("clf.1.bias").fill_(float("nan"))
    with pytest.raises(InputError, match=r"Stage B of .* gave numbers that are none in float32\. .* another --precis"):
        broken.generate("pizza", seed=0)
