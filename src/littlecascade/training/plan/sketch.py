"""The networks and the data of a run, without any file: what a plan is made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from littlecascade.checkpoint import files, places
from littlecascade.checkpoint.lazy import LazyTensors
from littlecascade.checkpoint.networks import ROLES
from littlecascade.checkpoint.recognise import recognise
from littlecascade.conditioning.clip import TextConfig, TextTower, VisionConfig, VisionTower
from littlecascade.conditioning.folder import CONFIG, read_json
from littlecascade.conditioning.image import ImageEncoder
from littlecascade.conditioning.text import TextEmbedding, TextEncoder
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.data.cache import BATCH_PIXELS, PIXELS
from littlecascade.memory import rescale
from littlecascade.memory.dataless import GPU, replaced
from littlecascade.memory.ledger import Ledger
from littlecascade.memory.precision import cast
from littlecascade.presets import Preset
from littlecascade.training import encoders
from littlecascade.training.config import RunConfig, TextRun
from littlecascade.training.config_adapters import AdapterRun
from littlecascade.training.data import Data, open_buckets
from littlecascade.training.draws import Draws
from littlecascade.training.encoders import STRIDE, text_folder_of
from littlecascade.training.feeds import IndexFeed
from littlecascade.training.lessons import Lessons
from littlecascade.training.stock import Stock

Module = TypeVar("Module", bound=nn.Module)
Compute = Callable[[Tensor], Tensor]

WEIGHTS, ENCODERS, FILE = "weights", "encoders", "file being read"
"""Kinds of storages."""

SAMPLES = 64
"""At least so many samples the sketched data have."""

_TOKENIZER = places.packaged("tiny") / "text"  # for runs whose own is not there


@dataclass(frozen=True)
class Sketch(Stock):
    """Networks of the sizes that files say, where they are there, or else presets. To be used within `dataless`.

    ledger: is told of what kind their storages are. preset: of the run's model_version. formats: see the function.
    shapes: of what one picture's columns are, once `fill` has run.
    """

    ledger: Ledger
    preset: Preset
    formats: Mapping[Path, torch.dtype]
    shapes: dict[str, torch.Size] = field(default_factory=dict)

    def stored(self, path: Path) -> torch.dtype:
        """The number format of a weight file; of one that is not there, or of a folder, what its name says of it."""
        short = path.stem.endswith(places.PRECISIONS["bfloat16"])
        return self.formats.get(path, torch.bfloat16 if short else torch.float32)

    def data(self, config: RunConfig) -> Data:
        return _Data(config, self)

    def network_config(self, role: str, preset: Any, checkpoint: Path | None) -> Any:
        return super().network_config(role, preset, checkpoint if checkpoint and checkpoint.is_file() else None)

    def trainable(self, role: str, network_config: Any, config: RunConfig, checkpoint: Path | None) -> Any:
        with self.ledger.kind(WEIGHTS):
            network = ROLES[role].network(network_config)
            if checkpoint is not None:
                network = self._read(network, self.dtype(config), checkpoint, WEIGHTS, copy=True)
            return self._prepared(network, config)

    def base(self, role: str, network_config: Any, config: AdapterRun, checkpoint: Path) -> Any:
        built = self.network_config(role, network_config, checkpoint)
        dtype, residence = self.stored(checkpoint), self.residence(config)

        def build() -> Any:
            """A network without memory: on a device that does not count."""
            with torch.device("cpu" if self.device == GPU else "meta"):
                return ROLES[role].network(built)

        with self.ledger.kind(WEIGHTS):
            outline = {name: torch.empty_like(own, dtype=dtype) for name, own in build().state_dict().items()}
            read = LazyTensors({name: partial(torch.empty_like, own, device="cpu") for name, own in outline.items()})
            return rescale.place(build, residence, residence.source(outline, read, read), outline)

    def frozen(self, role: str, path: Path) -> Any:
        built = self.network_config(role, getattr(self.preset, role), path)
        return self._loaded(lambda: ROLES[role].network(built), torch.float32, path)

    def text_encoder(self, folder: Path, config: RunConfig) -> TextEncoder:
        tower, tokens = self._text_tower(folder, self.dtype(config))
        there = (folder / CONFIG).is_file()
        return TextEncoder(tower, ClipTokenizer.load(folder if there else _TOKENIZER), tokens=tokens)

    def lessons(self, config: TextRun) -> Lessons:
        tokens = torch.zeros(SAMPLES, self.preset.text.positions, dtype=torch.int64)
        embeddings = torch.zeros(SAMPLES, self.preset.text.projection, dtype=torch.float16)
        return Lessons(ClipTokenizer.load(_TOKENIZER), embeddings, tokens, tokens == 0)

    def fill(self, config: RunConfig) -> None:
        """Encode one batch of pictures and one of captions, as a run's cache is filled."""
        with torch.no_grad():
            computes, (width, height) = self.columns(config), _size(config)
            pixels = torch.zeros(max(1, BATCH_PIXELS // (width * height)), 3, height, width)
            self.shapes.update({name: compute(pixels).shape[1:] for name, compute in computes.items()})
            del computes, pixels
            if config.cache and (folder := text_folder_of(config)) is not None:
                self.embed(folder, encoders.TEXT_BATCH)

    def columns(self, config: RunConfig) -> dict[str, Compute]:
        """What computes a run's columns: the run's own, on networks of this sketch, but for the pictures themselves."""
        with ExitStack() as stack:
            for owner, name, value in (
                (files, "identity", lambda paths: ""),
                (encoders, "files_of", lambda folder: []),
                (encoders, "load_network", lambda role, path, **_: self.frozen(role, path)),
                (ImageEncoder, "load", lambda folder, *_: ImageEncoder(self._vision_tower(folder))),
            ):
                stack.enter_context(replaced(owner, name, value))
            columns = [column for column in encoders.columns_of(config, self.device) if column != PIXELS]
            small = torch.zeros(1, 3, STRIDE, STRIDE)
            for column in columns:
                column.compute(small)  # which loads its network
        return {column.name: column.compute for column in columns}

    def embed(self, folder: Path, count: int) -> TextEmbedding:
        """The embeddings of so many captions, by a tower that is loaded for it."""
        tower, tokens = self._text_tower(folder, torch.float32)
        ids = torch.zeros(count, tokens, dtype=torch.int64, device=self.device)
        hidden, pooled = tower(ids, ids == 0)
        return TextEmbedding(hidden.cpu(), pooled[:, None].cpu())

    def text_shape(self, folder: Path) -> tuple[TextConfig, int]:
        """How a text tower is built, and how many tokens it is given."""
        if not (folder / CONFIG).is_file():
            return self.preset.text, self.preset.text.positions
        described = read_json(folder / CONFIG)
        built = TextConfig.from_transformers(described)
        return built, described.get("tokens") or built.positions

    def _text_tower(self, folder: Path, dtype: torch.dtype) -> tuple[TextTower, int]:
        built, tokens = self.text_shape(folder)
        return self._loaded(lambda: TextTower(built), dtype, folder), tokens

    def _vision_tower(self, folder: Path) -> VisionTower:
        there = (folder / CONFIG).is_file()
        built = VisionConfig.from_transformers(read_json(folder / CONFIG)) if there else self.preset.image
        return self._loaded(lambda: VisionTower(built), torch.float32, folder)

    def _loaded(self, factory: Callable[[], Module], dtype: torch.dtype, path: Path, kind: str = ENCODERS) -> Module:
        """A network as it is read from a file or folder: on a CPU that stays mapped where it has this format."""
        with self.ledger.kind(kind):
            return self._read(factory(), dtype, path, kind, copy=False).eval().requires_grad_(False)

    def _read(self, network: Module, dtype: torch.dtype, path: Path, kind: str, *, copy: bool) -> Module:
        """Convert what a network's file holds, which is in memory whole until that is done."""
        cast(network, torch.float32 if self.device == GPU else self.stored(path))
        held = list(network.state_dict().values())
        self.ledger.mark(FILE, held)
        network = cast(network, dtype, copy=copy).to(self.device)
        self.ledger.mark(kind, network.state_dict().values())
        del held
        return network


class _Data(Data):
    """Squares of the run's size without captions, from a cache or, where there is none, encoded at each visit."""

    def __init__(self, config: RunConfig, sketch: Sketch) -> None:
        self.size, self.shapes = _size(config), sketch.shapes
        self.feed = IndexFeed([range(max(SAMPLES, config.batch_size))], config.micro_batch, config.seed)
        self.folder = text_folder_of(config)
        self.sketch = sketch
        self.computes = {} if config.cache else sketch.columns(config)

    @property
    def broken(self) -> Sequence[str]:
        return ()

    def captions(self, raw: Sequence[int], draws: Draws) -> list[str]:
        return [""] * len(raw)

    def columns(self, raw: Sequence[int]) -> dict[str, Tensor]:
        if self.computes:
            with torch.no_grad():
                return {name: compute(self.pictures(raw)).float().cpu() for name, compute in self.computes.items()}
        return {name: torch.zeros(len(raw), *shape) for name, shape in self.shapes.items()}

    def pictures(self, raw: Sequence[int]) -> Tensor:
        width, height = self.size
        return torch.zeros(len(raw), 3, height, width)

    def masks(self, raw: Sequence[int]) -> Tensor:
        width, height = self.size
        return torch.zeros(len(raw), 1, height, width)

    def embed(self, texts: Sequence[str]) -> TextEmbedding:
        assert self.folder is not None
        built, tokens = self.sketch.text_shape(self.folder)
        return TextEmbedding(torch.zeros(len(texts), tokens, built.width), torch.zeros(len(texts), 1, built.projection))

    def prepare_texts(self, texts: Sequence[str]) -> None:
        """There is nothing to prepare."""

    def examples(self, count: int) -> list[int]:
        return list(range(count))


def _size(config: RunConfig) -> tuple[int, int]:
    """The width and height of the largest pictures."""
    return max(open_buckets(config).sizes, key=lambda size: size[0] * size[1])


def formats(config: RunConfig) -> dict[Path, torch.dtype]:
    """The number formats of the weight files that a configuration names and that are there."""
    paths = (value for _, value in config if isinstance(value, Path) and value.suffix in files.ENDINGS)
    parts = {path: recognise(path) for path in paths if path.is_file()}
    return {path: own[0].dtype for path, own in parts.items() if own}
