"""Writing the finished weights of a run: the averages that its checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from littlecascade.errors import InputError
from littlecascade.memory import rescale
from littlecascade.models.trunk import Trunk
from littlecascade.training.runstate import RunFolder
from littlecascade.training.task import Task


@torch.no_grad()
def export_averages(task: Task, tensors: Mapping[str, Tensor], folder: RunFolder) -> None:
    """Give the task's modules the averages among a checkpoint's `tensors`, in float32, and let it write its weights.

    Raises `InputError` for the checkpoint of another network.
    """
    for phase in task.phases:
        for prefix, module in phase.modules.items():
            module.cpu().float().eval()  # in float32 it need not fit the device
            if isinstance(module, Trunk):
                rescale.undivide(module)
            for name, tensor in chain(module.named_parameters(prefix), module.named_buffers(prefix)):
                if isinstance(tensor, nn.Parameter) and not tensor.requires_grad:
                    continue  # it was not trained
                value = tensors.get(f"ema.{name}", tensors.get(f"buffer.{name}"))
                if value is None or value.shape != tensor.shape:
                    raise InputError(f"{folder.state_path} does not fit {name}: it is of another network.")
                tensor.copy_(value)
    task.export(folder.export_folder)
