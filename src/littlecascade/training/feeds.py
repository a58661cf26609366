"""Where a run's micro-batches come from, one after another, and how a run that goes on finds its place again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

from littlecascade.data.batches import BucketBatches, PictureBatch
from littlecascade.data.loader import Loader, State
from littlecascade.data.order import GroupOrder
from littlecascade.data.stream import StreamConfig
from littlecascade.errors import InputError

Raw_co = TypeVar("Raw_co", covariant=True)


class Feed(Protocol[Raw_co]):
    """Gives micro-batches by their number in the run. They are taken in order, each once, from a thread of its own."""

    def take(self, number: int) -> Raw_co:
        """Micro-batch `number`, as the task's `prepare` reads it."""
        ...

    def state(self, number: int) -> State:
        """What to give to `load_state` so that `take(number)` is the next, in values that JSON can keep.

        Empty where the number is enough. Asked for when all before `number`, and maybe some more, have been taken.
        """
        ...

    def load_state(self, state: State) -> None:
        """Stand where another feed stood when it gave this state. Raises `InputError` if it read something else."""
        ...


class IndexFeed:
    """Micro-batches of samples that can be asked for in any order, by their indices; each is from one of the groups."""

    def __init__(self, groups: Sequence[Sequence[int]], micro_batch: int, seed: int) -> None:
        self._order = GroupOrder(groups, micro_batch, seed)

    def take(self, number: int) -> list[int]:
        return self._order[number]

    def state(self, number: int) -> State:
        return {}

    def load_state(self, state: State) -> None:
        if state:
            raise InputError(
                "The data were read in a sweep so far (cache: false), and now from a cache: set cache back, or begin "
                "a new run with another experiment_id."
            )


class StreamFeed:
    """Micro-batches of pictures as they come out of shards that are read in a sweep.

    ahead: how many may be taken before the one for which `state` is asked is used.
    """

    def __init__(self, config: StreamConfig, stage: BucketBatches, workers: int, ahead: int) -> None:
        self.loader = Loader(config, stage, workers)
        self.ahead = ahead
        self._batches: Iterator[PictureBatch] | None = None
        self._before: dict[int, State] = {}

    def take(self, number: int) -> PictureBatch:
        self._before[number] = self.loader.state_dict()
        self._before.pop(number - self.ahead, None)
        if self._batches is None:
            self._batches = iter(self.loader)
        return next(self._batches)

    def state(self, number: int) -> State:
        return self._before.get(number) or self.loader.state_dict()

    def load_state(self, state: State) -> None:
        if not state:
            raise InputError(
                "The data were read from a cache so far, and now in a sweep (cache: false): set cache back, or begin "
                "a new run with another experiment_id."
            )
        self.loader.load_state_dict(state)


AnyFeed = Feed[Any]
