"""Going on where memory runs out: smaller micro-batches, then gradient checkpointing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from littlecascade.errors import InputError
from littlecascade.memory.measure import give_back
from littlecascade.training.config import RunConfig
from littlecascade.training.plan.savings import remaining
from littlecascade.training.task import Batch

_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says so: torch has a class for CUDA's, and for other devices' messages alone."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def raise_out_of_memory(where: str, error: BaseException) -> NoReturn:
    """The `InputError` for memory that ran out where nothing can be tried again. where: ends in what to do."""
    raise InputError(
        f"Memory ran out {where}: the same command goes on from the last checkpoint (docs/training-memory.md)."
    ) from error


@contextmanager
def told(where: str) -> Iterator[None]:
    """Within: memory that runs out is told by `raise_out_of_memory`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise_out_of_memory(where, error)


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

        Raises `InputError` where neither is left.
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
        raise InputError(
            f"Memory is too short for a micro-batch of {self.size}{tried}: a smaller image_size, or "
            f"{', '.join(remaining(config))} need less ('littlecascade plan' says how much). What was trained up to "
            "the last checkpoint is kept."
        )

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
    """Give back what a step that failed had taken; to be called once nothing refers to it."""
    give_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _rows(value: Any, rows: int, part: slice) -> Any:
    """What belongs to some samples of a value that has something for each; other values as they are."""
    each = isinstance(value, Tensor | list | tuple) and not (isinstance(value, Tensor) and value.ndim == 0)
    return value[part] if each and len(value) == rows else value
