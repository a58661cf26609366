"""Watching a drawing, stopping it, and what is left of it then."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from littlecascade import Cascade, InputError, StopDrawing
from littlecascade.pipelines import drawing


def test_the_callback_sees_every_step_and_may_ask_for_a_preview(cascade: Cascade) -> None:
    calls: list[tuple[str, int, int]] = []

    def watch(stage: str, step: int, steps: int, preview: Callable[[], Image.Image]) -> None:
        calls.append((stage, step, steps))
        assert preview().size == (16, 16)  # 2 x 2 latents, 8 times as large

    cascade.generate("pizza", seed=0, callback=watch)
    assert calls == [("c", 1, 3), ("c", 2, 3), ("c", 3, 3), ("b", 1, 2), ("b", 2, 2)]


def test_a_preview_is_made_when_asked_for_and_once_while_stage_b_draws(cascade: Cascade) -> None:
    runs: list[int] = []
    hook = cascade.components.previewer.register_forward_pre_hook(lambda *_: runs.append(1))
    silent = cascade.generate("pizza", n=2, seed=0, callback=lambda *_: None)
    assert not runs
    watched = cascade.generate("pizza", n=2, seed=0, callback=lambda *call: call[3]())
    hook.remove()
    assert len(runs) == 3 + 1
    assert torch.equal(silent.latents, watched.latents)


def test_a_model_without_previewer_shows_its_latents(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    (folder / "previewer.safetensors").unlink()
    shown: list[Image.Image] = []
    Cascade.load(str(folder), device="cpu").generate("pizza", seed=0, callback=lambda *call: shown.append(call[3]()))
    assert {image.size for image in shown} == {(16, 16)}
    assert all(low < high for low, high in shown[0].getextrema())


def verbs(cascade: Cascade, picture: Image.Image) -> dict[str, Callable[..., Any]]:
    """Five pictures by every verb."""
    latents = torch.randn(5, 16, 2, 2, generator=torch.Generator().manual_seed(0))
    return {
        "generate": lambda **watchers: cascade.generate("pizza", n=5, seed=1, **watchers),
        "vary": lambda **watchers: cascade.vary(picture, n=5, seed=1, **watchers),
        "edit": lambda **watchers: cascade.edit(picture, "pizza", n=5, seed=1, **watchers),
        "reconstruct": lambda **watchers: cascade.reconstruct([picture] * 5, seed=1, **watchers),
        "decode": lambda **watchers: cascade.decode(latents, seed=1, **watchers),
    }


@pytest.mark.parametrize("verb", ["generate", "vary", "edit", "reconstruct", "decode"])
def test_stopping_keeps_what_is_finished(
    cascade: Cascade, gradient, grey_levels, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches of 2, stopped as Stage B begins the second one."""
    monkeypatch.setattr(drawing, "BATCH", 2)
    begun: list[str] = []

    def stop(stage: str, step: int, *_: Any) -> None:
        if (stage, step) == ("b", 1):
            begun.append(stage)
        if len(begun) == 2:
            raise StopDrawing

    call = verbs(cascade, gradient(64, 64))[verb]
    whole, stopped = call(), call(callback=stop)
    assert (whole.stopped, stopped.stopped) == (False, True)
    assert len(stopped.images) == len(stopped.recipes) == len(stopped.latents) == 2
    assert len(stopped.originals) == len(stopped.metrics) == (2 if verb == "reconstruct" else 0)
    assert stopped.recipes == whole.recipes[:2]
    assert all(grey_levels(one, other) <= 1 for one, other in zip(stopped.images, whole.images[:2], strict=True))


def test_stopping_at_once_leaves_an_empty_result(cascade: Cascade) -> None:
    def stop(*_: Any) -> None:
        raise StopDrawing

    result = cascade.generate("pizza", n=2, seed=0, callback=stop)
    assert (result.images, result.recipes, result.stopped) == ([], [], True)
    assert result.latents.shape == (0, 16, 2, 2)
    assert result.timings["stage_c"] > 0


@pytest.mark.parametrize("verb", ["generate", "vary", "edit", "reconstruct", "decode"])
def test_each_picture_is_handed_over_as_soon_as_it_is_finished(
    cascade: Cascade, gradient, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "BATCH", 2)
    order: list[Any] = []
    pictures: list[tuple[Image.Image, dict]] = []

    def keep(number: int, image: Image.Image, recipe: dict) -> None:
        order.append(number)
        pictures.append((image, recipe))

    def watch(stage: str, step: int, *_: Any) -> None:
        if (stage, step) == ("b", 1):
            order.append("b")

    result = verbs(cascade, gradient(64, 64))[verb](callback=watch, on_picture=keep)
    assert order == ["b", 0, 1, "b", 2, 3, "b", 4]
    assert pictures == list(zip(result.images, result.recipes, strict=True))


def test_pictures_have_their_place_in_what_was_asked_for(cascade: Cascade) -> None:
    """Prompts of two lengths are not drawn in their order."""
    long = "the quick brown fox jumps over the lazy dog " * 3
    found: dict[int, str] = {}
    cascade.generate(
        [long, "pizza"], seed=0, on_picture=lambda number, _, recipe: found.update({number: recipe["prompt"]})
    )
    assert found == {1: "pizza", 0: long}
    assert list(found) == [1, 0]


def test_an_interrupt_goes_through_and_finished_pictures_were_handed_over(
    cascade: Cascade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "BATCH", 1)
    saved: list[int] = []

    def interrupt(stage: str, *_: Any) -> None:
        if len(saved) == 2 and stage == "b":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cascade.generate("pizza", n=5, seed=0, callback=interrupt, on_picture=lambda number, *_: saved.append(number))
    assert saved == [0, 1]
    assert cascade.generate("pizza", seed=0).images  # and the cascade is none the worse


def test_a_result_says_what_it_took(cascade: Cascade, gradient) -> None:
    result = cascade.edit(gradient(64, 64), "pizza", seed=0)
    assert set(result.timings) == {"load", "text", "encode", "stage_c", "stage_b", "stage_a"}
    assert all(seconds >= 0 for seconds in result.timings.values())
    assert result.peak_memory > 50 * 2**20  # torch alone


def test_a_gpu_without_memory_is_told_with_what_takes_less(cascade: Cascade) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(InputError, match=r"Out of memory \(float32 on cpu, .*\)\. Less is taken by --precision int8"):
        cascade.generate("pizza", seed=0, callback=fail)
