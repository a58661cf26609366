"""A recipe, as a PNG carries it, draws its picture again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from littlecascade import Cascade, InputError
from littlecascade.recipe import read_recipe, save_png

OPTIONS: dict[str, Any] = {
    "steps": 4,
    "sampler": "ddpm",
    "guidance": 2.0,
    "rescale": 0.2,
    "guidance_interval": (0.2, 0.9),
    "decoder_steps": 3,
    "decoder_sampler": "ddim",
    "decoder_guidance": 1.4,
    "negative": "a small (dog:0.5)",
    "size": (72, 61),
}
DECODER = {name: OPTIONS[name] for name in ("decoder_steps", "decoder_sampler", "decoder_guidance", "size")}


@pytest.fixture
def sources(gradient, noise, tmp_path: Path) -> list[str]:
    paths = [str(tmp_path / name) for name in ("one.png", "other.png")]
    for path, picture in zip(paths, (gradient(80, 60), noise(64, 64, 0)), strict=True):
        picture.save(path)
    return paths


def through_png(cascade: Cascade, result: Any, folder: Path, number: int = 0) -> dict[str, Any]:
    save_png(result.images[number], folder / "drawn.png", result.recipes[number])
    recipe = read_recipe(folder / "drawn.png")
    assert recipe == result.recipes[number]
    return recipe


@pytest.mark.parametrize("task", ["generate", "vary", "edit", "reconstruct"])
@pytest.mark.parametrize("settled", [True, False], ids=["all settings", "defaults"])
def test_a_recipe_draws_the_same_pixels(
    cascade: Cascade, sources: list[str], tmp_path: Path, grey_levels, task: str, settled: bool
) -> None:
    options = OPTIONS if settled else {}
    drawn = {
        "generate": lambda: cascade.generate("a (red:1.4) pizza", n=2, seed=6, **options),
        "vary": lambda: cascade.vary(sources, "pizza", weights=[3, 2], n=2, seed=6, **options),
        "edit": lambda: cascade.edit(sources[0], "pizza", strength=0.4, n=2, seed=6, **options),
        "reconstruct": lambda: cascade.reconstruct([sources[0]] * 2, seed=6, **(DECODER if settled else {})),
    }[task]()
    recipe = through_png(cascade, drawn, tmp_path, number=1)
    assert (recipe["task"], recipe["seed"]) == (task, 7)
    again = cascade.redraw(recipe)
    assert grey_levels(drawn.images[1], again.images[0]) <= 1  # it was the second of a batch
    assert again.recipe == recipe
    assert grey_levels(again.images[0], cascade.redraw(recipe).images[0]) == 0


def test_what_is_given_overrules_the_recipe(cascade: Cascade) -> None:
    recipe = cascade.generate("pizza", seed=1).recipe
    changed = cascade.redraw(recipe, steps=5, seed=9, n=2)
    assert [(one["seed"], one["steps"], one["prompt"]) for one in changed.recipes] == [
        (9, 5, "pizza"),
        (10, 5, "pizza"),
    ]


def test_the_first_recipes_are_read_too(cascade: Cascade) -> None:
    """Version 0.1.0 wrote neither a task nor the settings of Stage B."""
    old = {"prompt": "pizza", "negative": "", "seed": 3, "size": [64, 64], "steps": 3, "sampler": "dpmpp_2m"}
    old |= {"littlecascade": "0.1.0", "guidance": 3.0, "model": "tiny", "precision": "float32"}
    assert cascade.redraw(old).recipe == cascade.generate("pizza", seed=3).recipe


def test_sources_that_are_gone_or_changed_are_told_and_can_be_given(
    cascade: Cascade, sources: list[str], noise, tmp_path: Path, grey_levels
) -> None:
    drawn = cascade.edit(sources[0], "pizza", strength=0.5, seed=1)
    moved = tmp_path / "moved.png"
    Path(sources[0]).rename(moved)
    with pytest.raises(InputError, match="There is no picture"):
        cascade.redraw(drawn.recipe)
    noise(64, 64, 5).save(sources[0])
    with pytest.raises(InputError, match="has changed since"):
        cascade.redraw(drawn.recipe)
    assert grey_levels(cascade.redraw(drawn.recipe, moved).images[0], drawn.images[0]) == 0
    with Image.open(moved) as picture:
        unnamed = cascade.edit(picture, "pizza", strength=0.5, seed=1)
        assert unnamed.recipe["sources"] == [{"path": None, "digest": drawn.recipe["sources"][0]["digest"]}]
        with pytest.raises(InputError, match="in no file"):
            cascade.redraw(unnamed.recipe)
        assert grey_levels(cascade.redraw(unnamed.recipe, picture).images[0], drawn.images[0]) == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"task": "genrate"}, "Did you mean 'generate'"),
        ({"task": "decode"}, "those that can be drawn again"),
        ({"task": ["edit"]}, "those that can be drawn again"),
        ({"prompt": 3}, "'prompt' is 3"),
        ({"steps": "many"}, "'steps' is 'many'"),
        ({"seed": True}, "'seed' is True"),
        ({"size": [64.5, 64]}, "'size' is"),
        ({"size": 64}, "'size' is 64"),
        ({"size": [64]}, "'size' is"),
        ({"task": "edit"}, "does not say which picture"),
        ({"task": "edit", "sources": ["a.png"]}, "does not say which picture"),
        ({"task": "edit", "sources": [{}]}, "in no file"),
        ({"guidance": None}, "'guidance' is None"),
        ({"guidance_interval": ["a", "b"]}, "'guidance_interval' is"),
        ({"sampler": "best"}, "Unknown sampler"),
    ],
)
def test_a_broken_recipe_is_one_clear_error(cascade: Cascade, change: dict[str, Any], why: str) -> None:
    recipe = cascade.generate("pizza", seed=1, steps=1, decoder_steps=1).recipe
    with pytest.raises(InputError, match=why):
        cascade.redraw(recipe | change)
    with pytest.raises(InputError, match="no prompt"):
        cascade.redraw({"seed": 1})
