"""Where a run's metrics and previews go beside its folder, if it is told to: TensorBoard, Weights & Biases."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from littlecascade.checkpoint.files import write_text
from littlecascade.training.config import RunConfig

Row = Mapping[str, float | None]


class Tracker(Protocol):
    """Something that shows the metrics of runs."""

    def scalars(self, step: int, row: Row) -> None:
        """Take in a row of the metrics; what is None is left out."""
        ...

    def picture(self, step: int, image: Image.Image) -> None:
        """Take in a preview."""
        ...

    def close(self) -> None:
        """Write what is still to be written."""
        ...


class TensorBoard:
    """Event files in the folder `tensorboard` of a run; those after `step` are void, as their updates are done anew."""

    def __init__(self, config: RunConfig, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None, flush_secs=10)

    def scalars(self, step: int, row: Row) -> None:
        for name, value in row.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def picture(self, step: int, image: Image.Image) -> None:
        self._writer.add_image("preview", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases. Its id is in the run's folder, so that a run that goes on is the same one there.

    Whether anything is sent is wandb's own affair: WANDB_MODE=offline keeps it in the run's folder.
    """

    def __init__(self, config: RunConfig, folder: Path, step: int) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        path = folder / "wandb-id.txt"
        if not path.is_file():
            write_text(path, secrets.token_hex(8))
        self._run = wandb.init(
            project=config.wandb_project or "littlecascade",
            entity=config.wandb_entity,
            name=config.experiment_id,
            id=path.read_text("utf-8").strip(),
            resume="allow",
            dir=str(folder),
            config=config.model_dump(mode="json"),
        )
        self._image: Callable[[Image.Image], Any] = wandb.Image

    def scalars(self, step: int, row: Row) -> None:
        self._run.log({name: value for name, value in row.items() if value is not None}, step=step)

    def picture(self, step: int, image: Image.Image) -> None:
        self._run.log({"preview": self._image(image)}, step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: Mapping[str, Callable[[RunConfig, Path, int], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}
"""By the key that switches each on, which is the name of its package and of our extra, too."""


def missing(config: RunConfig) -> list[str]:
    """The trackers that a run wants and whose package is not installed; nothing is imported."""
    return [name for name in _wanted(config) if find_spec(name) is None]


@contextmanager
def opened(config: RunConfig, folder: Path, step: int) -> Iterator[Sequence[Tracker]]:
    """The trackers that a run wants, after `step` updates of it; closed at the end, however it ends."""
    trackers = [TRACKERS[name](config, folder, step) for name in _wanted(config)]
    try:
        yield trackers
    finally:
        for tracker in trackers:
            tracker.close()


def _wanted(config: RunConfig) -> list[str]:
    return [name for name in TRACKERS if getattr(config, name)]
