"""One call of the cascade: its clock, whoever watches it, and the pictures that it has finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor

from littlecascade.data.pixels import to_image
from littlecascade.errors import InputError
from littlecascade.memory.measure import peak_rss
from littlecascade.pipelines.components import Components
from littlecascade.pipelines.metrics import compare
from littlecascade.pipelines.results import Result, StopDrawing
from littlecascade.pipelines.sampling import OnStep
from littlecascade.pipelines.size import CHANNELS, Frame
from littlecascade.recipe import Recipe

Preview = Callable[[], Image.Image]
"""Makes a small picture of what is being drawn; costs time only when called."""

Progress = Callable[[str, int, int, Preview], None]
"""Called after each step with the stage ("c" or "b"), the step's number (from 1), how many there are, and a preview."""

OnPicture = Callable[[int, Image.Image, Recipe], None]
"""Called with each picture as soon as it is finished: its number (from 0) in what was asked for, and its recipe."""


class Session:
    """The context in which pictures are drawn; `StopDrawing`, raised by a callback, ends it.

    A GPU that is out of memory is told by an `InputError`.
    """

    def __init__(
        self, components: Components, callback: Progress | None = None, on_picture: OnPicture | None = None
    ) -> None:
        self._components, self._callback, self._on_picture = components, callback, on_picture
        self._seconds: dict[str, float] = {}
        self._finished: dict[int, _Finished] = {}
        self._stopped = False
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, torch.OutOfMemoryError):
            raise InputError(
                f"Out of memory ({self._components.placement}). Less is taken by --precision int8 (precision='int8'), "
                "--offload block (offload='block'), a smaller --size and fewer pictures at once."
            ) from error
        self._stopped = isinstance(error, StopDrawing)
        return self._stopped

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the seconds of a block to those of the part `name`."""
        start = time.perf_counter()
        try:
            yield
            if self._on_gpu:
                torch.cuda.synchronize()
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def watch(self, stage: str, latents: Tensor | None = None) -> OnStep | None:
        """Carries a sampler's steps to the callback; the preview is of `latents`, or else of the x0 of the step."""
        callback = self._callback
        if callback is None:
            return None
        settled = None if latents is None else cache(lambda: self._preview(latents))

        def on_step(step: int, steps: int, x0: Tensor) -> None:
            callback(stage, step, steps, settled or (lambda: self._preview(x0)))

        return on_step

    def finish(
        self, number: int, image: Image.Image, latents: Tensor, recipe: Recipe, original: Image.Image | None = None
    ) -> None:
        """Keeps a finished picture with its latents (16, h, w), and hands it to whoever waits for it."""
        self._finished[number] = _Finished(image, latents.float().cpu(), recipe, original)
        if self._on_picture is not None:
            self._on_picture(number, image, recipe)

    def result(self, frame: Frame) -> Result:
        """All that was finished, in the order of its numbers."""
        done = [self._finished[number] for number in sorted(self._finished)]
        pairs = [(one.original, one) for one in done if one.original is not None]
        return Result(
            [one.image for one in done],
            torch.stack([one.latents for one in done]) if done else torch.empty(0, CHANNELS, *frame.latents),
            [one.recipe for one in done],
            self._seconds,
            torch.cuda.max_memory_allocated() if self._on_gpu else peak_rss(),
            originals=[original for original, _ in pairs],
            metrics=[compare(original, one.image, one.latents) for original, one in pairs],
            stopped=self._stopped,
        )

    @property
    def _on_gpu(self) -> bool:
        return self._components.device.type == "cuda"

    def _preview(self, latents: Tensor) -> Image.Image:
        """The first picture of a batch by the previewer or, in a model without one, three of the latents' channels."""
        try:
            previewer = self._components.previewer
        except InputError:
            colours = latents[0, :3].repeat_interleave(8, 1).repeat_interleave(8, 2).float()
            return to_image((colours - colours.min()) / (colours.max() - colours.min() + 1e-6))
        return to_image(previewer(latents[:1])[0])


class _Finished(NamedTuple):
    image: Image.Image
    latents: Tensor
    recipe: Recipe
    original: Image.Image | None
