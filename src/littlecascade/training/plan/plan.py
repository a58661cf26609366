"""Whether a run fits, and the settings with which it does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

from tqdm import tqdm

from littlecascade.memory.ledger import Peak
from littlecascade.training.config import RunConfig
from littlecascade.training.plan.savings import PIECES, Saving, applicable, changed, costs, in_order
from littlecascade.training.plan.simulate import FILLING, Simulation, simulate
from littlecascade.training.plan.target import Target

WORTH = 0.03
"""The share of a peak from which on a part of it is worth a saving."""

WAYS = 3
"""Ways to make a run fit that are told at most."""


@dataclass(frozen=True)
class Estimate:
    """What a configuration takes on a target."""

    config: RunConfig
    target: Target
    simulation: Simulation

    @cached_property
    def peaks(self) -> tuple[Peak, ...]:
        """Of each phase, with the rows "context" and "fragmentation" beside what tensors take."""
        return tuple(
            Peak(
                peak.phase,
                {**peak.bytes, "context": int(self.target.context), "fragmentation": int(self._lost(peak))},
            )
            for peak in self.simulation.peaks
        )

    def _lost(self, peak: Peak) -> float:
        return self.target.fragments * peak.total

    @property
    def highest(self) -> Peak:
        """The phase that takes the most."""
        return max(self.peaks, key=lambda peak: peak.total)

    @property
    def fits(self) -> bool:
        """Whether the target has so much."""
        return self.highest.total <= self.target.memory

    @property
    def training(self) -> Peak:
        """The phase that takes the most of those that settings change: all but the filling of the cache."""
        return max((peak for peak in self.peaks if peak.phase != FILLING), key=lambda peak: peak.total)

    @property
    def trains(self) -> bool:
        """Whether it fits once the cache is filled."""
        return self.training.total <= self.target.memory


@dataclass(frozen=True)
class Way:
    """Settings with which a run takes less, and what each costs."""

    values: Mapping[str, Any]
    costs: tuple[str, ...]
    estimate: Estimate


@dataclass(frozen=True)
class Plan:
    """A kind of training on a target. ways: that fit, the best first; else the one that takes the least."""

    kind: str
    estimate: Estimate
    ways: Sequence[Way] = field(default=())

    @property
    def target(self) -> Target:
        return self.estimate.target

    @property
    def best(self) -> Estimate:
        """Of the run as it is if it fits, else of the best way."""
        return self.estimate if self.estimate.trains or not self.ways else self.ways[0].estimate


def make_plan(
    kind: str,
    config: RunConfig,
    target: Target,
    given: Collection[str] = (),
    *,
    ways: int = WAYS,
    known: dict[str, Simulation] | None = None,
) -> Plan:
    """The plan of a run. given: keys that are not to be changed, but for `PIECES`. ways: how many are looked for.

    known: simulations of other plans of this kind, on targets of the same rates, which are added to. Raises
    `InputError` where the run would.
    """
    with tqdm(desc="trying", unit=" settings", disable=None, leave=False) as bar:
        planner = _Planner(kind, target, set(given) - {PIECES}, {} if known is None else known, bar)
        estimate = planner.estimate(config.model_copy(update={"precision": target.precision(config)}))
        if estimate.trains or not ways:
            return Plan(kind, estimate)
        return Plan(kind, estimate, planner.ways(estimate, ways))


def large(peak: Peak) -> set[str]:
    """The kinds of storages that are worth a saving."""
    return {part for part, size in peak.bytes.items() if size >= WORTH * peak.total}


class _Planner:
    def __init__(
        self, kind: str, target: Target, given: Collection[str], known: dict[str, Simulation], bar: tqdm[NoReturn]
    ) -> None:
        self.kind, self.target, self.given, self.known, self.bar = kind, target, given, known, bar

    def estimate(self, config: RunConfig) -> Estimate:
        key = config.model_dump_json()
        if key not in self.known:
            target, on_phase = self.target, self.bar.set_postfix_str
            self.known[key] = simulate(self.kind, config, target.rates, gpu=target.gpu, on_phase=on_phase)
            self.bar.update()
        return Estimate(config, self.target, self.known[key])

    def ways(self, start: Estimate, count: int) -> list[Way]:
        """The shortest part of the ladder that is enough, less what it can do without; then later steps of it that are
        enough, too, with what costs time alone. If all of it is not enough, all of it.
        """
        ladder = self.ladder(start)
        length = self.shortest(start, ladder)
        whole = self.way(start, ladder[:length])
        if not whole.estimate.trains:
            return [whole]
        found = [self.way(start, self.needed(start, ladder[:length]))]
        for other in ladder[length:]:
            if len(found) == count:
                break
            way = self.way(start, [*(own for own in ladder if own.running), other])
            if way.estimate.trains:
                found.append(way)
        return found

    def ladder(self, start: Estimate) -> list[Saving]:
        """What helps where most is in memory; then what helps where most is in memory with that, until it fits."""
        found, current = set[Saving](), start
        while not current.trains:
            more = set(applicable(current.config, self.given, large(current.training), gpu=self.target.gpu)) - found
            if not more:
                break
            found |= more
            current = self.way(start, in_order(found)).estimate
        return in_order(found)

    def shortest(self, start: Estimate, ladder: Sequence[Saving]) -> int:
        """How many of the ladder's first steps are enough: by bisection, since each one takes less."""
        low, high = 1, len(ladder)
        while low < high:
            middle = (low + high) // 2
            if self.way(start, ladder[:middle]).estimate.trains:
                high = middle
            else:
                low = middle + 1
        return low

    def needed(self, start: Estimate, ladder: Sequence[Saving]) -> list[Saving]:
        """The ladder without the steps that it fits without, the worst of them left out first."""
        kept = list(ladder)
        for saving in reversed(ladder[:-1]):
            if saving.running:
                continue
            rest = [own for own in kept if own is not saving]
            if self.way(start, rest).estimate.trains:
                kept = rest
        return kept

    def way(self, start: Estimate, ladder: Sequence[Saving]) -> Way:
        config, values, used = start.config, dict[str, Any](), list[Saving]()
        for saving in ladder:
            own = saving.values(config)
            other = changed(config, own) if own else None
            if other is not None:
                config, values = other, {**values, **own}
                used.append(saving)
        return Way(values, costs(used), self.estimate(config))
