from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from littlecascade.checkpoint.networks import ROLES, save_network
from littlecascade.presets import TINY

ROOT = Path(__file__).parents[2]


def load(path: Path) -> ModuleType:
    """The module in a file that is not on the import path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """`toy.py` beside this file."""
    return load(Path(__file__).with_name("toy.py"))


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """A run configuration for every task, over made-up data and networks of size `tiny`."""
    return load(ROOT / "benchmarks" / "training_losses.py").make_inputs(tmp_path_factory.mktemp("made-up"), pictures=8)


def made_up_network(role: str, folder: Path) -> Path:
    """A file of a stage of size `tiny`. As drawn, its last layers are zero, and nothing before them has a gradient."""
    network = ROLES[role].network(getattr(TINY, role))
    generator = torch.Generator().manual_seed(0)
    network.initialise(generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    path = folder / ROLES[role].file
    save_network(role, network, path, dtype=torch.float32)
    return path


@pytest.fixture(scope="session")
def stage_c_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a made-up Stage C."""
    return made_up_network("stage_c", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def stage_b_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a made-up Stage B."""
    return made_up_network("stage_b", tmp_path_factory.mktemp("base"))
