"""What of a run lies in the machine's memory while a GPU trains, by its key `offload`."""

from __future__ import annotations

from littlecascade.memory.offload import Lane
from littlecascade.memory.saved import Activations, keep_less
from littlecascade.models.trunk import Trunk
from littlecascade.training.config import RunConfig
from littlecascade.training.task import Task


def offload(task: Task, config: RunConfig) -> Lane | None:
    """Has activations moved, if they are to be. Returns by what moments, masters and averages are to be moved, if they
    are. On a CPU nothing is: it computes in the machine's memory.

    Frozen weights are `Stock.base`'s.
    """
    if task.device.type == "cpu":
        return None
    lane = Lane(task.device)
    if config.offloads("activations"):
        for network in task.networks:
            if isinstance(network, Trunk):
                keep_less(network, Activations(lane))
    return lane if config.offloads("optimizer") else None
