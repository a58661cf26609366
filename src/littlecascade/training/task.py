"""What a kind of training has to say about itself; the loop does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from littlecascade.training.draws import Draws
from littlecascade.training.feeds import AnyFeed

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Phase:
    """Modules that are trained together by one optimizer; a step visits each phase that is active in turn."""

    name: str
    modules: Mapping[str, nn.Module]
    start: float = 0.0  # the share of the run after which the phase takes part

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by module and name."""
        return {
            f"{module}.{name}": parameter
            for module, own in self.modules.items()
            for name, parameter in own.named_parameters()
            if parameter.requires_grad
        }

    def buffers(self) -> dict[str, Tensor]:
        """What modules gather beside it, such as the statistics of batch normalisation, by module and name."""
        return {
            f"{module}.{name}": buffer for module, own in self.modules.items() for name, buffer in own.named_buffers()
        }


@dataclass(frozen=True)
class Loss:
    """A scalar to go down, and figures for the metrics."""

    value: Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)


class Task(ABC):
    """One kind of training: its modules, its data, its loss, its pictures, and what comes out of it."""

    phases: Sequence[Phase]
    feed: AnyFeed
    device: torch.device = torch.device("cpu")
    """Where its networks are; batches are prepared on the CPU, and brought there for `loss`."""

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The networks that gradients flow through: those that are trained, and frozen ones that they are part of."""
        return [module for phase in self.phases for module in phase.modules.values()]

    @property
    def broken(self) -> Sequence[str]:
        """What of the data could not be read so far, and why."""
        return ()

    @abstractmethod
    def prepare(self, raw: Any, draws: Draws) -> Batch:
        """The batch of what `feed` gave: tensors (B, ...) by name, or None. Runs in another thread.

        Random choices (crops, captions) come from `draws`.
        """

    @abstractmethod
    def loss(self, phase: str, batch: Batch, draws: Draws, progress: float) -> Loss:
        """The loss of one micro-batch in one phase; `progress` in [0, 1] is the share of the run that is done."""

    @abstractmethod
    def preview(self) -> Image.Image | None:
        """A picture that shows how far the training is, or None where there is nothing to see.

        As `export`, it is called without gradients, in evaluation mode, and with the averaged weights in place.
        """

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the finished weights, as the modules hold them now, for others to load."""

    def extra_state(self) -> dict[str, Tensor]:
        """Tensors that the task itself carries from step to step; a resume copies their old values into them."""
        return {}


def on_device(batch: Batch, device: torch.device) -> dict[str, Any]:
    """A batch whose tensors are on a device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
