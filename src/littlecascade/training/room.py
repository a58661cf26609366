"""Going on where memory runs out: smaller micro-batches, gradient checkpointing, then a saving of the plan.

The first two are made amid an update (`Room`). For the others the run is built anew from its checkpoint, by whoever
started it: `OutOfRoomError` asks for that.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from littlecascade.errors import InputError
from littlecascade.memory.measure import give_back
from littlecascade.training.config import RunConfig
from littlecascade.training.plan.savings import remaining
from littlecascade.training.task import Batch

_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory")
_ONEDNN = "could not create a primitive"  # all that oneDNN says where it finds none for a kernel's code


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says so: torch has a class for CUDA's, and for other devices' messages alone."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).strip()
    return isinstance(error, RuntimeError) and (text == _ONEDNN or any(message in text for message in _MESSAGES))


class OutOfRoomError(InputError):
    """Memory ran out, and all is used that a run can turn to while it goes on.

    what: happened. advice: to who has to see to it. config: as the run went by in the end. whole: whether the update
    left everything as it was.
    """

    def __init__(self, what: str, advice: str, config: RunConfig, *, whole: bool = False) -> None:
        super().__init__(f"{what}: {advice}")
        self.what, self.config, self.whole = what, config, whole


def ended(where: str, config: RunConfig) -> OutOfRoomError:
    """For memory that ran out amid what can't be tried again."""
    advice = f"{_needs_less(config)}. The same command goes on from the last checkpoint."
    return OutOfRoomError(f"Memory ran out {where}", advice, config)


@contextmanager
def ending(where: str, config: RunConfig) -> Iterator[None]:
    """Within: memory that runs out is `ended`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ended(where, config) from error


def _needs_less(config: RunConfig) -> str:
    return f"{', '.join(remaining(config))} need less ('littlecascade plan' says how much)"


def reason(error: BaseException) -> str:
    """Why memory ran out, in a line."""
    return str(error).strip().split("\n")[0] or type(error).__name__


@runtime_checkable
class Checkpointable(Protocol):
    """A network that can compute activations anew in place of keeping them, as `models.trunk.Trunk` can."""

    checkpointing: bool


class Room:
    """How many pictures go through the networks at once, and whether these keep their activations.

    modules: all that gradients flow through.
    """

    def __init__(self, config: RunConfig, modules: Sequence[nn.Module]) -> None:
        self.config = config
        self.size = config.micro_batch
        self.modules = [module for module in modules if isinstance(module, Checkpointable)]
        if config.gradient_checkpointing:
            if not self.modules:
                raise InputError("gradient_checkpointing is for Stage B and C; the networks of this run have none.")
            self._set_checkpointing()

    def cut(self, batch: Batch, positions: range) -> Iterator[tuple[Batch, range]]:
        """A micro-batch in parts of `size` samples, each with its positions in the run's order."""
        rows = len(positions)
        for start in range(0, rows, self.size):
            part = slice(start, start + self.size)
            yield {name: _rows(value, rows, part) for name, value in batch.items()}, positions[part]

    def make(self) -> str:
        """After memory ran out: the next smaller parts, or else gradient checkpointing. Returns what has been done.

        Raises `OutOfRoomError` where neither is left.
        """
        config = self.config
        smaller = next((size for size in range(self.size // 2, 0, -1) if config.micro_batch % size == 0), None)
        if smaller is not None and not config.fused_backward:
            self.size = smaller
            steps = config.batch_size // smaller
            return f"the batch of {config.batch_size} goes on as {steps} micro-batches of {smaller}"
        if self.modules and not self._checkpointing:
            self._set_checkpointing()
            return "gradient_checkpointing is switched on"
        tried = " with gradient_checkpointing" if self.modules else ""
        raise OutOfRoomError(
            f"Memory is too short for a micro-batch of {self.size}{tried}",
            f"a smaller image_size, or {_needs_less(config)}. What was trained up to the last checkpoint is kept.",
            self.present,
            whole=True,
        )

    @property
    def present(self) -> RunConfig:
        """The configuration by which the run goes now."""
        now = {"grad_accum_steps": self.config.batch_size // self.size, "gradient_checkpointing": self._checkpointing}
        return self.config.model_copy(update=now)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, so that a run that goes on computes as it would have."""
        return {"room.size": torch.tensor(self.size), "room.checkpointing": torch.tensor(self._checkpointing)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave, as far as the configuration asks for no less."""
        size = int(tensors.get("room.size", torch.tensor(self.size)))
        if self.config.micro_batch % size == 0:
            self.size = size
        if "room.checkpointing" in tensors and bool(tensors["room.checkpointing"]):
            self._set_checkpointing()

    @property
    def _checkpointing(self) -> bool:
        return any(module.checkpointing for module in self.modules)

    def _set_checkpointing(self) -> None:
        for module in self.modules:
            module.checkpointing = True


def clear() -> None:
    """Give back what a step or a run that failed had taken; to be called once nothing but itself refers to it."""
    gc.collect()
    give_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _rows(value: Any, rows: int, part: slice) -> Any:
    """What belongs to some samples of a value that has something for each; other values as they are."""
    each = isinstance(value, Tensor | list | tuple) and not (isinstance(value, Tensor) and value.ndim == 0)
    return value[part] if each and len(value) == rows else value
