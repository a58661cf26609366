"""Samples of data sets that are too large, or too far away, to be indexed: read from tar shards in one sweep.

An epoch's shards are put in an order and dealt out to the lanes, one lane to each worker process of each rank. A lane
reads its shards from front to back in blocks, and mixes each block. All of this follows from the seed and five numbers,
the `Cursor`: a lane that starts from the cursor of another goes on with the very next sample. The library webdataset
reads the same shards, but its shuffle draws from a running generator and it knows no position within a shard, so that
it could go on only from the start of an epoch.

The members of a sample follow one another in a shard, as all common writers have it. A sample that can't be used is
skipped and named; of a damaged shard, what lies behind the damage is lost.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from littlecascade.data.expressions import EvaluationError
from littlecascade.data.getters import CaptionGetter, Filter, first_failure
from littlecascade.data.order import EpochOrder, derive_seed
from littlecascade.data.pipes import Pipe
from littlecascade.data.places import open_place, resolve
from littlecascade.data.remote import RemoteFile
from littlecascade.data.samples import PICTURE_SUFFIXES, is_hidden, masked, stem_and_suffix
from littlecascade.data.tars import Entry, Problem, scan
from littlecascade.errors import InputError

T = TypeVar("T")
Shard = Path | RemoteFile | Pipe
"""A tar file, or a program that writes one."""

LARGEST_MEMBER = 1 << 28
"""Bytes of one member that are read at most; samples with a larger one are skipped."""
PATIENCE = 10_000
"""Samples in a row of which a lane may use none before that is an error."""
LOST_SHARDS = 3
"""Shards in a row that may give a lane no sample before that is an error."""
_CHUNK = 1 << 20  # bytes
_DAMAGE = ""  # is no stem
_PICTURES = frozenset(suffix.removeprefix(".") for suffix in PICTURE_SUFFIXES)


def find_shards(where: str | Sequence[str], *, allow_pipe: bool = False) -> tuple[Shard, ...]:
    """The shards of some places, in their order. Raises `InputError` where one has none, and as `resolve` does."""
    shards: list[Shard] = []
    for found in resolve(where, allow_pipe=allow_pipe):
        own = [file.path for file in found.files if file.is_tar or isinstance(file.path, Pipe)]
        if not own:
            raise InputError(f"No tar file in {found.place!r}: only those can be read in a sweep.")
        shards += own
    return tuple(shards)


@dataclass(frozen=True)
class Packed:
    """A sample as it lies in a shard: its members' bytes by suffix (`jpg`, `txt`), or why it can't be used."""

    name: str
    members: Mapping[str, bytes] = field(default_factory=dict)
    fault: str = ""


class Address(NamedTuple):
    """Where a lane meets a sample: the number of the epoch, of a piece in that epoch, of the sample in the shard."""

    epoch: int
    piece: int
    index: int


@dataclass(frozen=True)
class Example:
    """A sample that can be used. `picture` is its file's bytes; `seed` is for the random choices of this one visit."""

    name: str
    picture: bytes
    caption: str
    fields: Mapping[str, Any]
    address: Address
    seed: int


class Skip(NamedTuple):
    """A sample that was not used: because a filter does not let it pass, or because it can't be read."""

    name: str
    reason: str
    filtered: bool = False


class Cursor(NamedTuple):
    """How far a lane has come: `taken` samples into the epoch's block `block`, which begins at (`piece`, `index`)."""

    epoch: int = 0
    block: int = 0
    piece: int = 0
    index: int = 0
    taken: int = 0


START = Cursor()


class Piece(NamedTuple):
    """Every `parts`-th sample of a shard, from number `part` on."""

    shard: int
    part: int
    parts: int


@dataclass(frozen=True)
class StreamConfig:
    """What is read and in which order.

    shards: as `find_shards` gives them. shuffle: samples that a lane keeps in memory to mix them, in two blocks of
    which one is used while the other fills; with 0 they come as they lie, the shards in the order given. epochs: None
    is without end. resampled: instead of going through all shards, each lane draws from them with replacement, and its
    epoch has as many draws as there are shards. rank, world_size: of this process among those that share the data.

    With fewer shards than lanes each shard is dealt out in equal parts, at the price that several lanes read it all.
    Where the shards don't divide among the lanes, some lanes have one more, which ones goes round with the epochs.
    Lanes don't wait for one another: each goes on to its share of the next epoch by itself. Over all lanes, each sample
    comes exactly once in each epoch, unless resampled.
    """

    shards: tuple[Shard, ...]
    seed: int = 0
    shuffle: int = 1000
    epochs: int | None = None
    resampled: bool = False
    rank: int = 0
    world_size: int = 1
    filters: tuple[Filter, ...] = ()
    caption: CaptionGetter = field(default_factory=CaptionGetter)

    def __post_init__(self) -> None:
        if not self.shards:
            raise InputError("There is no shard to read.")
        if not 0 <= self.rank < self.world_size:
            raise InputError(f"Rank {self.rank} is not below the number of processes, {self.world_size}.")
        if self.shuffle < 0 or (self.epochs is not None and self.epochs < 1):
            raise InputError(f"shuffle ({self.shuffle}) can't be below 0, nor epochs ({self.epochs}) below 1.")


@dataclass(frozen=True)
class Lane:
    """One reader's share: number `number` of `count` over all processes."""

    config: StreamConfig
    number: int
    count: int

    def pieces(self, epoch: int) -> list[Piece]:
        """What this lane reads in an epoch, in order."""
        config, shards = self.config, len(self.config.shards)
        if config.resampled:
            draws = (derive_seed(config.seed, self.number, epoch, draw) for draw in range(shards))
            return [Piece(draw % shards, 0, 1) for draw in draws]
        parts = -(-self.count // shards)
        order = EpochOrder(shards, config.seed)
        ordered = [order[epoch * shards + number] if config.shuffle else number for number in range(shards)]
        every = [Piece(shard, part, parts) for shard in ordered for part in range(parts)]
        return every[(self.number - epoch * len(every)) % self.count :: self.count]

    def made(self, make: Callable[[Example], T], cursor: Cursor = START) -> Iterator[tuple[T | Skip, Address, Cursor]]:
        """What `make` makes of each sample, or why it was skipped; where it was, and how far the lane has come with it.

        `make` raises `InputError` for a sample that it can't use. Raises `InputError` itself where it looks hopeless:
        after `PATIENCE` samples, or `LOST_SHARDS` shards, of which none could be used.
        """
        patience = _Patience()
        for epoch in count(cursor.epoch) if self.config.epochs is None else range(cursor.epoch, self.config.epochs):
            start = cursor if epoch == cursor.epoch else Cursor(epoch)
            for packed, address, after in self._mixed(start, patience):
                outcome = self._attempt(make, packed, address)
                patience.sample(outcome)
                yield outcome, address, after

    def made_again(self, make: Callable[[Example], T], addresses: Iterable[Address]) -> dict[Address, T | Skip]:
        """What `make` made of the samples at some addresses. One that is no longer there is left out."""
        outcomes: dict[Address, T | Skip] = {}
        for (epoch, piece), group in groupby(sorted(addresses), key=lambda address: address[:2]):
            wanted = {address.index for address in group}
            shard = self.config.shards[self.pieces(epoch)[piece].shard]
            for index, packed in islice(read_shard(shard, self._suffixes(), wanted), len(wanted)):
                address = Address(epoch, piece, index)
                outcomes[address] = self._attempt(make, packed, address)
        return outcomes

    def _mixed(self, start: Cursor, patience: _Patience) -> Iterator[tuple[Packed, Address, Cursor]]:
        """The rest of an epoch, block by block, each in an order of its own."""
        size = max(1, self.config.shuffle // 2)
        seed = derive_seed(self.config.seed, self.number, start.epoch)
        samples = self._samples(start, patience)
        number, taken, block = start.block, start.taken, list(islice(samples, size))
        while block:
            order = EpochOrder(len(block), seed)
            ahead: list[tuple[Packed, Address]] = []
            _, first = block[0]
            for position in range(taken, len(block)):
                ahead += islice(samples, 1)
                packed, address = block[order[number * len(block) + position]]
                yield packed, address, Cursor(start.epoch, number, first.piece, first.index, position + 1)
            ahead += islice(samples, size - len(ahead))
            number, taken, block = number + 1, 0, ahead

    def _samples(self, start: Cursor, patience: _Patience) -> Iterator[tuple[Packed, Address]]:
        """The samples of an epoch as they lie, from the first of the cursor's block on."""
        for number, piece in islice(enumerate(self.pieces(start.epoch)), start.piece, None):
            shard = self.config.shards[piece.shard]
            first = start.index if number == start.piece else 0
            wanted = range(first + (piece.part - first) % piece.parts, sys.maxsize, piece.parts)
            last, usable = None, False
            for index, last in read_shard(shard, self._suffixes(), wanted):
                usable = usable or not last.fault
                yield last, Address(start.epoch, number, index)
            if last:
                patience.shard(last, usable)
            else:
                patience.sample(Skip(shard_name(shard), "it has fewer samples than it has readers"))

    def _suffixes(self) -> frozenset[str]:
        return _PICTURES | {"json", self.config.caption.member}

    def _attempt(self, make: Callable[[Example], T], packed: Packed, address: Address) -> T | Skip:
        try:
            if packed.fault:
                raise InputError(packed.fault)
            fields = _fields(packed.members.get("json"))
            if failed := first_failure(self.config.filters, fields):
                return Skip(packed.name, failed, filtered=True)
            seed = derive_seed(self.config.seed, self.number, *address)
            caption = self._caption(packed.members, fields, random.Random(derive_seed(seed, 1)))
            picture = next(content for suffix, content in packed.members.items() if suffix in _PICTURES)
            return make(Example(packed.name, picture, caption, fields, address, seed))
        except InputError as error:
            return Skip(packed.name, str(error))

    def _caption(self, members: Mapping[str, bytes], fields: Mapping[str, Any], draw: random.Random) -> str:
        getter = self.config.caption
        if getter.member not in members:
            if getter.required:
                raise InputError(f"it has no .{getter.member} for its caption")
            return ""
        content = fields if getter.member == "json" else members[getter.member].decode("utf-8", "replace")
        try:
            return getter(content, draw)
        except EvaluationError as error:
            raise InputError(f"it has no caption: {error}") from None


class _Patience:
    """Counts what could not be used in a row, and gives up in time."""

    def __init__(self) -> None:
        self.samples = self.shards = 0

    def sample(self, outcome: object) -> None:
        self.samples = self.samples + 1 if isinstance(outcome, Skip) else 0
        if isinstance(outcome, Skip) and self.samples >= PATIENCE:
            raise InputError(
                f"None of {PATIENCE} samples in a row could be used; the last, {outcome.name}: {outcome.reason}. Look "
                "at the data, dataset_filters and captions_getter."
            )

    def shard(self, last: Packed, usable: bool) -> None:
        self.shards = 0 if usable else self.shards + 1
        if self.shards >= LOST_SHARDS:
            raise InputError(f"{LOST_SHARDS} shards in a row gave no sample; the last, {last.name}: {last.fault}.")


def read_shard(
    shard: Shard, suffixes: Container[str], wanted: Container[int] = range(sys.maxsize)
) -> Iterator[tuple[int, Packed]]:
    """The samples of a tar shard whose numbers are wanted, with their numbers, in one sweep from front to back.

    Of each, the members with the given suffixes. What can't be read, because the shard is missing, damaged or empty,
    comes as one last sample with a fault.
    """
    name, index, fault = shard_name(shard), 0, ""
    try:
        with open_place(shard) as stream:
            read = _Forwards(stream)
            for stem, members in groupby(_members(read, suffixes), key=lambda member: member[0]):
                if index in wanted or stem == _DAMAGE:
                    yield index, _pack(read, f"{name}/{stem}", members)
                index += 1
    except (InputError, OSError) as error:
        fault = f"nothing can be read behind its first {index} samples: {error}"
    if index == 0 and not fault:
        fault = "it holds no sample"
    if fault and index in wanted:
        yield index, Packed(name, fault=fault)


def shard_name(shard: Shard) -> str:
    """The last part of its path, or the program that writes it."""
    return str(shard) if isinstance(shard, Pipe) else shard.name


class _Forwards:
    """Reads a stream by offsets that never go back."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.position = stream, 0

    def __call__(self, offset: int, size: int) -> bytes:
        while self.position < offset and self._read(min(offset - self.position, _CHUNK)):
            pass
        parts: list[bytes] = []
        while size and (part := self._read(min(size, _CHUNK))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _read(self, size: int) -> bytes:
        part = self.stream.read(size)
        self.position += len(part)
        return part


def _members(read: _Forwards, suffixes: Container[str]) -> Iterator[tuple[str, str, Entry | Problem]]:
    """Stem, suffix and place of the files that count; of the end of a damaged tar, `_DAMAGE`, why, and where.

    Hidden files don't count: some archivers add a `._name` beside each. Nor do masks.
    """
    for member in scan(read, sys.maxsize):
        if isinstance(member, Problem) and (member.fatal or not member.name):
            yield _DAMAGE, f"{member.name or 'it'} {member.reason}", member
            return
        stem, suffix = stem_and_suffix(member.name)
        if suffix[1:] in suffixes and not is_hidden(member.name) and masked(stem) is None:
            yield stem, suffix[1:], member


def _pack(read: _Forwards, name: str, members: Iterable[tuple[str, str, Entry | Problem]]) -> Packed:
    """Read one sample. Raises `InputError` where the shard can't be read any further."""
    contents: dict[str, bytes] = {}
    fault = ""
    for stem, suffix, member in members:
        if stem == _DAMAGE:
            raise InputError(suffix)
        if isinstance(member, Problem):
            fault = fault or f"its .{suffix} {member.reason}"
        elif member.size > LARGEST_MEMBER:
            fault = fault or f"its .{suffix} has {member.size:,} bytes, more than {LARGEST_MEMBER:,}"
        elif suffix not in contents:
            contents[suffix] = read(member.offset, member.size)
            if len(contents[suffix]) < member.size:
                raise InputError(f"it is cut short within {member.name}")
    if not fault and contents.keys().isdisjoint(_PICTURES):
        fault = "it has no picture"
    return Packed(name, contents, fault)


def _fields(content: bytes | None) -> Mapping[str, Any]:
    try:
        fields = {} if content is None else json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"its .json is not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise InputError(f"its .json holds a {type(fields).__name__}, not an object")
    return fields
