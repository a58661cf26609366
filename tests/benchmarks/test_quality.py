"""The quality measurements, on pictures whose figures are known by hand."""

from __future__ import annotations

import doctest
import importlib
import io
import json
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageDraw

from littlecascade.data.pixels import to_tensor

ROOT = Path(__file__).parents[2]
MODULES = ("measures", "emoji_reference", "quality")


@pytest.fixture(scope="module")
def bench():
    """The benchmark's modules, which import one another as scripts do; afterwards their plain names are free again."""
    known, path = set(sys.modules), list(sys.path)
    sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "recipes" / "emoji")]
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if (ROOT / "benchmarks" / f"{name}.py").is_file() or (ROOT / "recipes" / "emoji" / f"{name}.py").is_file():
            del sys.modules[name]


def square(colour: str, second: str | None = None) -> Image.Image:
    """A square on white; `second` colours its right half."""
    image = Image.new("RGB", (96, 96), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((16, 16, 79, 79), colour)
    if second:
        pen.rectangle((48, 16, 79, 79), second)
    return image


def test_documented_examples_hold(bench):
    assert all(doctest.testmod(getattr(bench, name)).failed == 0 for name in MODULES)


# Colour


@pytest.mark.parametrize(
    ("colour", "word"),
    [("#d22", "red"), ("#2a4", "green"), ("#27e", "blue"), ("#fd3", "yellow"), ("#f8a", "pink"), ("#84c", "purple")],
)
def test_a_square_has_its_colour(bench, colour, word):
    assert bench.measures.main_colour(square(colour)) == word


@pytest.mark.parametrize(
    "picture", [square("white"), square("#777"), square("black"), square("#851"), square("#d22", "#2a4")]
)
def test_no_word_for_greys_browns_and_halves(bench, picture):
    assert bench.measures.main_colour(picture) is None


def test_grey_takes_the_hue_out(bench):
    red, green, luma = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64), 0.299
    red[:, 0] = 1
    green[:, 1] = luma / 0.587
    first, second = (bench.measures.grey(bench.measures.small(one)) for one in (red, green))
    assert first.shape == (1, 32 * 32)
    assert torch.allclose(first, torch.full_like(first, luma))
    assert torch.allclose(first, second)


# Finding


def test_small_averages_areas(bench):
    pixels = torch.zeros(1, 3, 64, 64)
    pixels[0, 2, 0, 1] = 1
    expected = torch.zeros(1, 3, 32, 32)
    expected[0, 2, 0, 0] = 0.25
    assert torch.equal(bench.measures.small(pixels), expected.flatten(1))


def test_an_identical_picture_is_found_first(bench):
    pictures = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    names = list("abcdef")
    gallery = bench.measures.Gallery.of(bench.measures.small(pictures), names)
    assert gallery.ranks(bench.measures.small(pictures), names) == [0] * 6


def test_a_rank_counts_names_not_pictures_and_a_tie_is_no_loss(bench):
    vectors = torch.tensor([[0.0], [0.1], [0.2], [1.0], [1.0]])
    gallery = bench.measures.Gallery.of(vectors, ["cat", "cat", "dog", "fox", "owl"])
    ranks = gallery.ranks(torch.zeros(4, 1), ["cat", "dog", "fox", "owl"])
    assert ranks == [0, 1, 2, 2]
    assert bench.measures.within(ranks, 1) == 25
    assert bench.measures.within(ranks, 2) == 50


# Fidelity


def test_gradient_energy_by_hand(bench):
    stripes = torch.tensor([0.0, 1.0, 0.0]).expand(1, 3, 4, 3)
    assert bench.measures.gradient_energy(stripes) == 1
    assert bench.measures.gradient_energy(stripes / 2) == 0.25


def test_blur_lowers_and_speckle_raises_gradient_energy(bench):
    sharp = to_tensor(square("#d22"))[None]
    blurred = torch.nn.functional.avg_pool2d(sharp, 5, 1, 2, count_include_pad=False)
    speckled = sharp + 0.2 * torch.randn(sharp.shape, generator=torch.Generator().manual_seed(0))
    energy = bench.measures.gradient_energy
    assert energy(blurred) < 0.5 * energy(sharp)
    assert energy(speckled) > 1.5 * energy(sharp)


def test_fidelity_tells_decibels_and_bars(bench):
    originals = torch.full((2, 3, 8, 8), 0.5) + 0.1 * torch.eye(8)
    pictures = bench.quality.Reconstructions(originals, originals + 0.1, originals + 0.01, originals - 0.01)
    figures = {one.name: one for one in bench.quality.fidelity(pictures)}
    assert figures["compressor, B and A"].value == pytest.approx(20, abs=1e-3)
    assert figures["compressor, B and A"].met is False
    assert figures["Stage A alone"].value == pytest.approx(40, abs=1e-3)
    assert figures["Stage A alone"].met is True
    assert figures["the former minus the latter"].value == pytest.approx(-20, abs=1e-3)
    assert figures["gradient energy, compressor, B and A"].value == pytest.approx(1, abs=1e-3)
    assert figures["gradient energy, compressor, B and A"].met is True
    assert figures["compressor and previewer"].met is None


def test_drawings_are_scored_by_part(bench):
    pictures = torch.stack([to_tensor(square("#d22")), to_tensor(square("#27e"))])
    vectors = bench.measures.small(pictures)
    gallery = bench.measures.Gallery.of(vectors, ["red square", "blue square"])
    scored = bench.quality.right_thing(pictures, pictures.flip(0), ["red square", "blue square"], gallery)
    assert [one.value for one in scored] == [100, 100, 0, 100]
    greys = bench.measures.Gallery.of(bench.measures.grey(vectors), ["square", "square"])
    scored = bench.quality.new_pairs(pictures, pictures, ["red", "green"], ["square", "square"], greys)
    assert [one.value for one in scored] == [50, 100, 50, 100]


# Real pictures


def write_shard(path: Path, samples: list[tuple[str, str | None, str]]) -> None:
    """A shard of squares: (name, colour, style), the colour that of the picture too."""
    with tarfile.open(path, "w") as tar:
        for number, (name, colour, style) in enumerate(samples):
            buffer = io.BytesIO()
            square(colour or "#777").save(buffer, "PNG")
            facts = json.dumps({"name": name, "colour": colour, "style": style}).encode()
            for suffix, data in ((".png", buffer.getvalue()), (".json", facts)):
                member = tarfile.TarInfo(f"{number}{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def reference(bench, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    training = [("pie", None, "flat"), ("pie", None, "3d"), ("red apple", None, "flat"), ("blue pie", "blue", "flat")]
    held_out = [("red pie", "red", "flat"), ("red pie", "red", "noto"), ("green apple", "green", "flat")]
    write_shard(data / "train-000.tar", training)
    write_shard(data / "heldout-000.tar", held_out)
    table = {name: {"group": "food"} for name in ("pie", "red apple")}
    table |= {f"flag: {letter}": {"group": "flags"} for letter in "abcdef"}
    (data / "names.json").write_text(json.dumps(table), "utf-8")
    (data / "synonyms.json").write_text(json.dumps({"tart": "pie"}), "utf-8")
    return bench.emoji_reference.Reference.load(data, 64)


def test_names_are_proportional_to_groups_and_spaced(reference):
    assert reference.names(4) == ["pie", "flag: a", "flag: c", "flag: e"]
    assert sorted(reference.names(8)) == sorted(name for names in reference.groups.values() for name in names)


def test_galleries_hold_the_right_pictures(reference):
    colour, greys = reference.colour_gallery(), reference.grey_gallery()
    assert (len(colour.vectors), colour.names) == (3, ["pie", "red apple"])
    assert (len(greys.vectors), greys.names) == (7, ["apple", "pie"])


def test_pictures_and_pairs_are_picked_by_rule(reference):
    styles = [
        reference.training.rows[row].fields["style"] for row in reference.pictures_of(["pie", "pie", "red apple"])
    ]
    assert styles == ["3d", "flat", "flat"]
    pairs = [reference.held_out.rows[row].fields for row in reference.held_out_pairs(100)]
    assert [(pair["name"], pair["style"]) for pair in pairs] == [("green apple", "flat"), ("red pie", "flat")]


class Echo:
    """A cascade that paints the seed, so that a picture tells where in the order it was drawn."""

    def generate(self, prompts, *, seed):
        return SimpleNamespace(images=[Image.new("RGB", (2, 2), (seed + k, 0, 0)) for k in range(len(prompts))])


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_every_prompt_has_its_own_seed_whatever_the_batch(bench, batch, monkeypatch):
    monkeypatch.setattr(bench.quality, "BATCH", batch)
    drawn = bench.quality.draw(Echo(), ["x"] * 10, "test")
    assert (drawn[:, 0, 0, 0] * 255).round().tolist() == list(range(10))
