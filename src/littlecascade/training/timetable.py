"""How many updates a run has: those of its configuration, or as many as fit the time that it was given.

The rate is measured in the first updates, and again whenever a quarter of what is left is done, so that the last
update, and with it the end of the learning rate's schedule, comes when the time is up. From which update on a run had
how many is in `timetable.json` in its folder: a run that goes on without a time of its own keeps them, and computes
what it would have.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from littlecascade.errors import InputError
from littlecascade.training.config import RunConfig
from littlecascade.training.runstate import RunFolder

FIRST = 10
"""Updates over which the rate is measured at first; the very first one, which is slower, comes before them."""
EARLY = 0.05
"""The share of the time after which it is measured at the latest."""
LAST = 8
"""Updates before the end from which on nothing is planned anew."""

_FILE = "timetable.json"


class Timetable:
    """`total(step)`: the updates of the whole run, as they are known at update `step`.

    clock: seconds, from any start.
    """

    def __init__(self, folder: RunFolder, config: RunConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._limit, self._hours = config.updates, config.max_hours
        plan = self._read()
        self._seconds: float = plan["seconds"]  # that the run took before
        self._of: float | None = plan["max_hours"]  # the time that it was fitted to
        self._totals: list[tuple[int, int]] = [(step, total) for step, total in plan["totals"]]
        self._begun = clock()
        self._deadline: float | None = None
        self._mark: tuple[float, int] | None = None
        self._measured, self._due = False, FIRST
        self._apart: dict[str, float] = {}

    def total(self, step: int) -> int:
        """The updates of the whole run, as they are known at update `step`, from 0."""
        return next((total for start, total in reversed(self._totals) if start <= step), self._limit)

    @property
    def up(self) -> bool:
        """Whether the time is up that the run was to be fitted to."""
        return self._deadline is not None and self._clock() >= self._deadline

    def begin(self, step: int, minutes: float | None = None, since: float | None = None) -> None:
        """Go on after `step` updates, to be done `minutes` after `since`, a time of the clock, which is now if None.

        Without `minutes`, max_hours of the configuration counts for the whole run, or what was planned before stays.
        """
        self._begun = self._clock() if since is None else since
        finished = bool(self._totals) and step >= self.total(step)
        if minutes is not None:
            self._deadline = self._begun + 60 * minutes
        elif self._hours is not None and not (finished and self._of == self._hours):
            self._deadline = self._begun + 3600 * self._hours - self._seconds
        if self._deadline is None:
            return
        self._of = self._hours if minutes is None else None
        self._totals = [(start, total) for start, total in self._totals if start <= step]
        if finished:
            self._plan(step, self._limit)

    @contextmanager
    def apart(self, name: str) -> Iterator[None]:
        """Within: what is done beside the updates, and at the end of the run once more, so that time is left for it."""
        start = self._clock()
        yield
        self._apart[name] = self._clock() - start

    def tick(self, step: int) -> None:
        """After update number `step`: plan anew where that is due."""
        if self._deadline is None:
            return
        now = self._clock()
        left = self._deadline - now - sum(self._apart.values())
        if left <= 0:
            self._plan(step, step)
        elif self._mark is None:
            self._mark = now, step
        else:
            taken, done = now - self._mark[0], step - self._mark[1]
            if done >= self._due or (not self._measured and taken > EARLY * left):
                self._fit(step, left, taken / done)
                self._mark = now, step

    def record(self) -> None:
        """Keep the time that the run has taken so far beside its plan, if it has one."""
        if self._totals or self._deadline is not None:
            self._write()

    def _fit(self, step: int, left: float, each: float) -> None:
        """Plan as many updates more as fit into the seconds that are left, at so many seconds each."""
        total = min(self._limit, step + int(left / each))
        if not self._measured and self._deadline is not None:
            given = told(self._deadline - self._begun)
            line = f"{total:,} of {self._limit:,} updates fit into {given}, {told(each)} each: the run ends with them"
            if total == self._limit:
                line = f"all {total:,} updates fit into {given}: they take about {told((total - step) * each)} more"
            tqdm.write(f"time: {line}", file=sys.stderr)
        self._plan(step, total)
        self._measured, rest = True, total - step
        self._due = max(LAST, rest // 4) if rest > LAST else sys.maxsize

    def _plan(self, step: int, total: int) -> None:
        if total != self.total(step):
            self._totals = [(start, own) for start, own in self._totals if start < step] + [(step, total)]
            self._write()

    def _write(self) -> None:
        plan = {
            "updates": self._limit,
            "max_hours": self._of,
            "seconds": round(self._seconds + self._clock() - self._begun, 3),
            "totals": self._totals,
        }
        self._folder.write(_FILE, json.dumps(plan) + "\n")

    def _read(self) -> dict[str, Any]:
        """The plan of a run's folder; an empty one where there is none, or for another number of updates."""
        path = self._folder.folder / _FILE
        empty: dict[str, Any] = {"updates": self._limit, "max_hours": None, "seconds": 0.0, "totals": []}
        if not self._folder.state_path.is_file() or not path.is_file():
            return empty
        try:
            plan = json.loads(path.read_text("utf-8"))
            kept = empty | {key: plan[key] for key in empty}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}, which this run wrote, can't be read ({error!r}): delete it.") from None
        return kept if kept["updates"] == self._limit else empty | {"seconds": kept["seconds"]}


def told(seconds: float) -> str:
    """A length of time in words.

    >>> told(0.25), told(84), told(3 * 3600 + 300), told(36000), told(200000)
    ('0.25 s', '1 min 24 s', '3 h 5 min', '10 h', '2 d 8 h')
    """
    if seconds < 60:
        return f"{seconds:.2g} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    large = next(place for place, (_, size) in enumerate(units) if seconds >= size)
    (name, size), (small, part) = units[large], units[large + 1]
    rest = round(seconds % size / part)
    return f"{int(seconds // size)} {name}" + (f" {rest} {small}" if rest else "")
