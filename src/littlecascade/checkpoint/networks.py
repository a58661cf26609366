"""A network and its file: the configuration travels as JSON in the metadata of the safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from littlecascade.checkpoint import assign, files
from littlecascade.errors import InputError
from littlecascade.models.compressor import Compressor
from littlecascade.models.config import (
    CompressorConfig,
    PreviewerConfig,
    StageAConfig,
    StageBConfig,
    StageCConfig,
    from_dict,
    to_dict,
)
from littlecascade.models.previewer import Previewer
from littlecascade.models.stage_a import StageA
from littlecascade.models.stage_b import StageB
from littlecascade.models.stage_c import StageC

Network: TypeAlias = StageA | StageB | StageC | Compressor | Previewer
"""All have a `config`, a `dtype`, and `initialise(generator)` to draw weights for training from scratch."""


@dataclass(frozen=True)
class Role:
    """A part of the cascade: its network, its configuration's class, and the official name of its file."""

    network: type[Network]
    config: type[Any]
    file: str


ROLES: Mapping[str, Role] = {
    "stage_a": Role(StageA, StageAConfig, "stage_a.safetensors"),
    "stage_b": Role(StageB, StageBConfig, "stage_b.safetensors"),
    "stage_c": Role(StageC, StageCConfig, "stage_c.safetensors"),
    "compressor": Role(Compressor, CompressorConfig, "effnet_encoder.safetensors"),
    "previewer": Role(Previewer, PreviewerConfig, "previewer.safetensors"),
}


def save_network(
    role: str, module: Network, path: Path, *, dtype: torch.dtype, notes: Mapping[str, str] | None = None
) -> None:
    """Write a network's weights in `dtype` with its role and configuration, and `notes` such as its training's."""
    metadata = {"role": role, "config": json.dumps(to_dict(module.config)), **(notes or {})}
    tensors: dict[str, Tensor] = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in module.state_dict().items()
    }
    files.save(path, tensors, metadata)


def read_config(role: str, path: Path) -> Any:
    """The configuration stored in a network's file, None where there is none. Raises `InputError` for another role."""
    metadata = files.metadata(path)
    stored_role = metadata.get("role", role)
    if stored_role != role:
        raise InputError(f"{path} holds a {stored_role}, not a {role}.")
    if "config" not in metadata:
        return None
    try:
        values = json.loads(metadata["config"])
    except ValueError as error:
        raise InputError(f"{path}: the configuration it carries is not JSON ({error}).") from None
    return from_dict(ROLES[role].config, values)


def load_network(
    role: str,
    path: Path,
    *,
    config: Any = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> Any:
    """Build the network of a file and give it the file's weights, in evaluation mode.

    The configuration stored in the file counts; `config` is for files that carry none. `dtype` None keeps what is
    stored. Raises `InputError` for a file of another role, without a configuration, or whose tensors do not fit.
    """
    config = read_config(role, path) or config
    if config is None:
        raise InputError(f"{path} does not say how its {role} is built, and no size was named.")
    module = assign.build(
        lambda: ROLES[role].network(config), files.load(path), dtype=dtype, device=device, source=str(path)
    )
    return module.eval().requires_grad_(False)
