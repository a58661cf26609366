"""Lanes of a stream in worker processes, and the reader in front of them that can be stopped and resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from littlecascade.data.stream import START, Cursor, Example, Lane, Skip, StreamConfig, shard_name
from littlecascade.errors import InputError

T = TypeVar("T")

State = dict[str, Any]
"""A position, in values that JSON can keep."""
NAMED = 20
"""How many broken samples a tally keeps by name."""


class Step(NamedTuple, Generic[T]):
    """What a lane delivers: an item (None at the end), what was skipped before it, and the lane's state behind it."""

    item: T | None
    skipped: tuple[Skip, ...]
    state: State


class Stage(Protocol[T]):
    """Turns a lane into what it delivers, and goes on from the state of an earlier step if one is given.

    It is sent to worker processes, so that it has to be a function of a module or an object that can be pickled.
    """

    def __call__(self, lane: Lane, state: State | None) -> Iterator[Step[T]]: ...


@dataclass(frozen=True)
class Singly(Generic[T]):
    """The stage that delivers what `make` makes of each sample."""

    make: Callable[[Example], T]

    def __call__(self, lane: Lane, state: State | None) -> Iterator[Step[T]]:
        cursor = Cursor(*state["cursor"]) if state else START
        skipped: list[Skip] = []
        for outcome, _, after in lane.made(self.make, cursor):
            cursor = after
            if isinstance(outcome, Skip):
                skipped.append(outcome)
            else:
                yield Step(outcome, tuple(skipped), {"cursor": list(cursor)})
                skipped = []
        yield Step(None, tuple(skipped), {"cursor": list(cursor)})


@dataclass
class Tally:
    """What a reader has delivered and left out: samples `filtered` by reason, `broken` ones, the first few `named`."""

    delivered: int = 0
    filtered: dict[str, int] = field(default_factory=dict)
    broken: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, skipped: Iterable[Skip]) -> None:
        """Count what was skipped."""
        for skip in skipped:
            if skip.filtered:
                self.filtered[skip.reason] = self.filtered.get(skip.reason, 0) + 1
                continue
            self.broken += 1
            line = f"{skip.name}: {skip.reason}"
            if len(self.named) < NAMED and line not in self.named:
                self.named.append(line)


class Loader(Generic[T]):
    """Iterates over what the lanes of this process deliver in turn; can be stopped and resumed between any two items.

    workers: processes that read, decode and build what is delivered; with 0 this process does it. Each is a lane, so
    that their number is part of the order. They are started afresh ("spawn") on every system: a script that uses them
    needs `if __name__ == "__main__":`. Iterating again goes on, too. It raises `InputError` where the data can't be
    used. `tally` counts.
    """

    def __init__(self, config: StreamConfig, stage: Stage[T], workers: int = 0) -> None:
        self.config, self.stage, self.workers = config, stage, workers
        self.tally = Tally()
        self._lanes = max(1, workers)
        self._states: list[State | None] = [None] * self._lanes
        self._turn = 0

    def __iter__(self) -> Iterator[T]:
        source = _Source(self.config, self.stage, self._states, self._turn)
        steps = DataLoader(
            source,
            batch_size=None,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            multiprocessing_context="spawn" if self.workers else None,
            generator=torch.Generator(),  # else it would draw from the global one
        )
        for number, step in steps:
            if isinstance(step, str):
                raise InputError(step)
            self._states[number] = step.state
            self._turn = (number + 1) % self._lanes
            self.tally.add(step.skipped)
            if step.item is not None:
                self.tally.delivered += 1
                yield step.item

    def state_dict(self) -> State:
        """Where the reader stands behind the last item that it gave out, in values that JSON can keep."""
        tally = asdict(self.tally)
        return {"reader": self._identity(), "lanes": list(self._states), "turn": self._turn, "tally": tally}

    def load_state_dict(self, state: State) -> None:
        """Stand where another reader stood when this was its `state_dict()`; takes effect when iterating begins.

        Raises `InputError` if that one read other shards or in another order.
        """
        for key, value in self._identity().items():
            before = state["reader"].get(key)
            if before != value:
                raise InputError(
                    f"The data were read with {key} {before!r} so far, and now it is {value!r}: set it back, or begin "
                    "a new run."
                )
        self._states, self._turn = list(state["lanes"]), state["turn"]
        self.tally = Tally(**state["tally"])

    def _identity(self) -> State:
        """What the order of the samples follows from; of the shards, the names without their folders."""
        settings = {key: getattr(self.config, key) for key in ("seed", "shuffle", "resampled", "rank", "world_size")}
        names = "\n".join(map(shard_name, self.config.shards))
        return {**settings, "workers": self.workers, "shards": sha256(names.encode()).hexdigest()[:16]}


class _Source(IterableDataset[tuple[int, "Step[Any] | str"]]):
    """What runs in each worker: a lane's steps with its number among this rank's, or the line that says what failed."""

    def __init__(self, config: StreamConfig, stage: Stage[Any], states: Sequence[State | None], turn: int) -> None:
        self.config, self.stage, self.states, self.turn = config, stage, list(states), turn

    def __iter__(self) -> Iterator[tuple[int, Step[Any] | str]]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        number = (worker + self.turn) % workers  # worker 0 is asked first
        ranks = self.config.world_size
        try:
            lane = Lane(self.config, number * ranks + self.config.rank, workers * ranks)
            for step in self.stage(lane, self.states[number]):
                yield number, step
        except InputError as error:
            yield number, str(error)


def _as_it_is(step: T) -> T:
    return step
