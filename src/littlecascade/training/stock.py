"""Where the networks and the data of a run come from, and the device that the networks are on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from littlecascade.checkpoint import assign, files
from littlecascade.checkpoint.header import read_header
from littlecascade.checkpoint.networks import ROLES, load_network, read_config
from littlecascade.conditioning.text import TextEncoder
from littlecascade.data.order import derive_seed
from littlecascade.memory import rescale
from littlecascade.memory.precision import DTYPES, cast, choose_device, choose_dtype
from littlecascade.memory.residence import Residence
from littlecascade.training.config import RunConfig, TextRun
from littlecascade.training.config_adapters import AdapterRun
from littlecascade.training.data import Data, open_data
from littlecascade.training.lessons import Lessons, read_lessons

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Stock:
    """Networks and data from the files that a configuration names."""

    device: torch.device

    @classmethod
    def of(cls, config: RunConfig) -> Stock:
        """On the device of a configuration. Raises `InputError` where it is missing."""
        return cls(choose_device(config.device))

    def dtype(self, config: RunConfig) -> torch.dtype:
        """The format that a run's networks compute in."""
        return DTYPES[precision_of(config, self.device)]

    def data(self, config: RunConfig) -> Data:
        """What the run is trained on. Raises `InputError` as `open_data` does."""
        return open_data(config, self.device)

    def network_config(self, role: str, preset: Any, checkpoint: Path | None) -> Any:
        """How a network is built: as `checkpoint` says, if there is one and it says so, else as the preset."""
        return preset if checkpoint is None else read_config(role, checkpoint) or preset

    def trainable(self, role: str, network_config: Any, config: RunConfig, checkpoint: Path | None) -> Any:
        """A network that the run trains: with the weights of `checkpoint` if given, else drawn from the run's seed."""
        factory = ROLES[role].network
        if checkpoint is not None:
            network = assign.build(lambda: factory(network_config), files.load(checkpoint), source=str(checkpoint))
            network = cast(network, self.dtype(config), copy=True)  # or else it would be the file, mapped
        else:
            network = factory(network_config)
            network.initialise(torch.Generator().manual_seed(derive_seed(config.seed, *role.encode())))
        return self._prepared(network, config)

    def fresh(self, factory: Callable[[], Module], config: RunConfig) -> Module:
        """A network of no role that the run trains, with weights that torch draws from the run's seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = factory()
        return self._prepared(network, config)

    def residence(self, config: AdapterRun) -> Residence:
        """How `base` keeps its weights: offloaded, a GPU has them in the machine's memory and a CPU in their file."""
        return Residence(
            self.device,
            self.dtype(config),
            packing=None if config.base_weights == "same" else config.base_weights,
            streamed=config.offloads("weights"),
            held=self.device.type != "cpu",
        )

    def base(self, role: str, network_config: Any, config: AdapterRun, checkpoint: Path) -> Any:
        """Stage B or C that stays as it is, computes in the run's format, and that gradients flow through."""
        header, residence = read_header(checkpoint), self.residence(config)
        built = read_config(role, checkpoint) or network_config

        def build() -> Any:
            with torch.device("meta"):
                network = ROLES[role].network(built)
            assign.check(network, header.outline, str(checkpoint))
            return network

        weights = residence.source(header.outline, header.tensors(), header.mapped())
        return rescale.place(build, residence, weights, header.outline)

    def frozen(self, role: str, path: Path) -> Any:
        """A network that the run uses and does not train, in float32."""
        return load_network(role, path, dtype=torch.float32, device=self.device)

    def text_encoder(self, folder: Path, config: RunConfig) -> TextEncoder:
        """A text tower that gradients flow through, in the run's format."""
        return TextEncoder.load(folder, self.dtype(config), self.device)

    def lessons(self, config: TextRun) -> Lessons:
        """What the text tower is taught with. Raises `InputError` as `read_lessons` does."""
        return read_lessons(config)

    def _prepared(self, network: Module, config: RunConfig) -> Module:
        return cast(network, self.dtype(config)).to(self.device).train().requires_grad_(True)


def precision_of(config: RunConfig, device: torch.device) -> str:
    """The number format that a run computes in on a device; for `auto` the fastest that is safe there.

    A GPU without bfloat16 takes float16 for Stage B and C, whose stream is divided for it (`memory.rescale`), with loss
    scaling, and float32 for what is small.
    """
    if config.precision != "auto":
        return config.precision
    dtype = choose_dtype("auto", device)
    if device.type == "cuda" and dtype == torch.float32 and config.large:
        dtype = torch.float16
    return str(dtype).removeprefix("torch.")
