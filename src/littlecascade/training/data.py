"""A run's data: kept in a cache, which is made first, or read in a sweep and encoded at each visit."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from littlecascade.conditioning.text import TextEmbedding
from littlecascade.data.batches import BucketBatches, PictureBatch
from littlecascade.data.buckets import Buckets, parse_ratios
from littlecascade.data.cache import PIXELS, Cache, fill
from littlecascade.data.getters import parse_captions_getter, parse_filters
from littlecascade.data.loader import Loader
from littlecascade.data.sources import find_samples
from littlecascade.data.stream import Skip, StreamConfig, find_shards
from littlecascade.data.table import Source
from littlecascade.data.texts import Texts
from littlecascade.errors import InputError
from littlecascade.memory.precision import choose_device
from littlecascade.training import encoders
from littlecascade.training.config import DiffusionRun, RunConfig
from littlecascade.training.draws import Draws
from littlecascade.training.encoders import columns_of, text_folder_of
from littlecascade.training.feeds import AnyFeed, IndexFeed, StreamFeed


class Data(ABC):
    """Pictures, what was encoded of them, and captions. A raw batch is what its `feed` gives: samples of one size."""

    feed: AnyFeed

    @property
    @abstractmethod
    def broken(self) -> Sequence[str]:
        """What could not be read, and why."""

    @abstractmethod
    def captions(self, raw: Any, draws: Draws) -> list[str]:
        """One caption for each sample, drawn from its alternatives; empty where there is none."""

    @abstractmethod
    def columns(self, raw: Any) -> dict[str, Tensor]:
        """What the columns have for each sample, (B, ...) float32, by name."""

    @abstractmethod
    def pictures(self, raw: Any) -> Tensor:
        """(B, 3, H, W) in [0, 1]."""

    @abstractmethod
    def masks(self, raw: Any) -> Tensor:
        """(B, 1, H, W) in [0, 1], of the pictures' size: where they count. Ones for pictures that have no mask."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> TextEmbedding:
        """Embeddings of captions, of the empty one, or of a text that `prepare_texts` was given."""

    @abstractmethod
    def prepare_texts(self, texts: Sequence[str]) -> None:
        """Have texts that are no captions embedded, too."""

    @abstractmethod
    def examples(self, count: int) -> Any:
        """The same raw batch of up to `count` samples at every call, for previews."""


class CachedData(Data):
    """Everything is on disk: no encoder is in memory once this object is made."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        columns = columns_of(config, device)
        self.cache = Cache(open_source(config), columns, config.cache_folder, open_texts(config, device))
        if isinstance(config, DiffusionRun) and config.masked_loss:
            self.cache.source.check_masks(self.cache.rows)
        self.unsaid = config.default_caption or ""
        if self.unsaid and self.cache.texts is not None:
            self.prepare_texts([self.unsaid])
        self.names = [column.name for column in columns]
        self.groups = list(self.cache.groups().values())
        self.feed = IndexFeed(self.groups, config.micro_batch, config.seed)
        for reason, count in self.cache.filtered.items():
            tqdm.write(f"{count} of {len(self.cache.source.samples)} samples are left out: {reason}", file=sys.stderr)

    @property
    def broken(self) -> Sequence[str]:
        return self.cache.broken

    def captions(self, raw: Sequence[int], draws: Draws) -> list[str]:
        choices = [self.cache.rows[row].captions or (self.unsaid,) for row in raw]
        return [own[pick % len(own)] for own, pick in zip(choices, draws.integers(1 << 30), strict=True)]

    def columns(self, raw: Sequence[int]) -> dict[str, Tensor]:
        return {name: self.cache.column(name, raw) for name in self.names}

    def pictures(self, raw: Sequence[int]) -> Tensor:
        if PIXELS.name in self.names:
            return self.cache.column(PIXELS.name, raw)
        with ThreadPoolExecutor() as pool:
            cut = list(self.cache.source.cut_all([self.cache.rows[row].sample for row in raw], pool))
        pixels = np.stack([one[1].pixels for one in cut if not isinstance(one, Skip)])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255

    def masks(self, raw: Sequence[int]) -> Tensor:
        cut = [self.cache.source.mask(self.cache.rows[row]) for row in raw]
        return torch.from_numpy(np.stack(cut)).unsqueeze(1).float() / 255

    def embed(self, texts: Sequence[str]) -> TextEmbedding:
        return _texts_of(self.cache.texts).embed(texts)

    def prepare_texts(self, texts: Sequence[str]) -> None:
        _texts_of(self.cache.texts).ensure(texts)

    def examples(self, count: int) -> list[int]:
        largest = max(self.groups, key=len)
        return [largest[number * len(largest) // count] for number in range(count)]


class StreamedData(Data):
    """Nothing is kept: shards are read in a sweep, crops are drawn at each visit, and the encoders stay in memory."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        folder, self.unsaid = text_folder_of(config), config.default_caption or ""
        self.column_list = columns_of(config, device)
        self.load_texts = None if folder is None else cache(encoders.text(folder, device)[1])
        filters, getter = parse_filters(config.dataset_filters), parse_captions_getter(config.captions_getter)
        shards = find_shards(config.webdataset_path)
        tqdm.write(f"{_place(config)}: {len(shards)} shards, read in a sweep", file=sys.stderr)
        self.stream = StreamConfig(shards, config.seed, filters=filters, caption=getter)
        self.stage = BucketBatches(open_buckets(config), config.micro_batch, _random_ratio(config))
        self.feed = self.reader = StreamFeed(self.stream, self.stage, config.workers, ahead=2 * config.grad_accum_steps)

    @property
    def broken(self) -> Sequence[str]:
        return self.reader.loader.tally.named

    def captions(self, raw: PictureBatch, draws: Draws) -> list[str]:
        return [caption or self.unsaid for caption in raw.captions]

    @torch.no_grad()
    def columns(self, raw: PictureBatch) -> dict[str, Tensor]:
        pixels = self.pictures(raw)
        values = {column.name: column.compute(pixels).float().cpu() for column in self.column_list if column != PIXELS}
        return values | ({PIXELS.name: pixels} if PIXELS in self.column_list else {})

    def pictures(self, raw: PictureBatch) -> Tensor:
        return torch.from_numpy(raw.pixels).float() / 255

    def masks(self, raw: PictureBatch) -> Tensor:
        raise InputError("Masks are not read in a sweep: set masked_loss to false, or cache to true.")

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> TextEmbedding:
        assert self.load_texts is not None
        return TextEmbedding(*(tensor.float().cpu() for tensor in self.load_texts()(texts)))

    def prepare_texts(self, texts: Sequence[str]) -> None:
        """Nothing to do: the encoder is at hand."""

    def examples(self, count: int) -> PictureBatch:
        return next(iter(Loader(replace(self.stream, shuffle=0), replace(self.stage, batch_size=count))))


def open_data(config: RunConfig, device: torch.device) -> Data:
    """The data of a run, with the columns that its kind needs, which are computed on a device.

    Raises `InputError` for data that can't be found or used, and for keys that can't be understood.
    """
    if not config.cache:
        return StreamedData(config, device)
    return CachedData(config, device)


def fill_cache(config: RunConfig, rank: int, world_size: int) -> Filled:
    """Make every `world_size`-th part of the cache of a run, from part `rank` on, as far as it is not there."""
    source, device = open_source(config), choose_device(config.device)
    columns, texts = columns_of(config, device), open_texts(config, device)
    made = fill(source, columns, config.cache_folder, texts, rank=rank, world_size=world_size)
    return Filled(config.cache_folder, len(source.samples), made, len(range(rank, source.parts, world_size)))


@dataclass(frozen=True)
class Filled:
    """What `fill_cache` did: the folder, samples in all, parts that it made, parts that are its share."""

    folder: Path
    samples: int
    made: int
    share: int


def open_texts(config: RunConfig, device: torch.device) -> Texts | None:
    """Where the embeddings of a run's captions are kept, if it needs any."""
    folder = text_folder_of(config)
    return None if folder is None else Texts(config.cache_folder, *encoders.text(folder, device))


def open_source(config: RunConfig) -> Source:
    """What a run's data are, as a cache has them."""
    place, samples = _place(config), find_samples(config.webdataset_path)
    tqdm.write(f"{place}: {len(samples)} samples", file=sys.stderr)
    return Source(
        place,
        samples,
        open_buckets(config),
        parse_filters(config.dataset_filters),
        parse_captions_getter(config.captions_getter),
        _random_ratio(config),
        config.seed,
    )


def open_buckets(config: RunConfig) -> Buckets:
    """The sizes to which pictures are cut: by `multi_aspect_ratio`, or one square."""
    if not config.multi_aspect_ratio:
        return Buckets(config.image_size, multiple=1)
    return Buckets(config.image_size, parse_ratios(config.multi_aspect_ratio))


def _random_ratio(config: RunConfig) -> float:
    return config.bucketeer_random_ratio if config.multi_aspect_ratio else 0.0


def _place(config: RunConfig) -> str:
    places = config.webdataset_path
    return places if isinstance(places, str) else ", ".join(places)


def _texts_of(texts: Texts | None) -> Texts:
    if texts is None:
        raise InputError("This run has no text tower.")
    return texts
