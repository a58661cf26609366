"""A plan for people and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from littlecascade.memory.cards import GIB
from littlecascade.memory.ledger import OTHER, Peak
from littlecascade.training.config import RunConfig
from littlecascade.training.plan.plan import Estimate, Plan
from littlecascade.training.plan.savings import told
from littlecascade.training.plan.simulate import AVERAGES, GRADIENTS, MASTERS, OPTIMIZER
from littlecascade.training.plan.sketch import ENCODERS, FILE, WEIGHTS
from littlecascade.training.timetable import told as told_time

PARTS = (WEIGHTS, MASTERS, GRADIENTS, OPTIMIZER, AVERAGES, OTHER, ENCODERS, FILE, "context", "fragmentation")
"""The kinds of memory in the order in which they are shown."""

SHORT = {MASTERS: "masters", FILE: "file", "fragmentation": "lost", OTHER: "activ."}
"""Kinds whose names are too long for a column."""


def render(plan: Plan) -> str:
    """The table of peaks in GiB by phase and part, the verdict, and the ways to make it fit."""
    estimate, config = plan.estimate, plan.estimate.config
    size = f"{config.micro_batch} at once" if config.micro_batch < config.batch_size else f"batch {config.batch_size}"
    head = (
        f"{plan.kind} {config.model_version}, {config.precision}, {size}, {config.image_size} px, on {plan.target.name}"
    )
    ways = [
        f"  {gib(way.estimate.training.total)}, {told_time(way.estimate.simulation.seconds)} an update: "
        f"{told(way.values)}\n      ({'; '.join(way.costs)})"
        for way in plan.ways
        if way.estimate.trains
    ]
    return "\n".join([head, "", *_grid(estimate), "", verdict(plan), *ways, _speed(plan.best)])


def verdict(plan: Plan) -> str:
    """Whether it fits, in one line, and what to do where it does not."""
    estimate, there = plan.estimate, plan.target.memory
    need = estimate.highest if estimate.trains else estimate.training
    text = f"about {gib(need.total)} ({need.phase}) of the {gib(there)} that {plan.target.name} has for it"
    if estimate.fits:
        return f"fits: {text}"
    if estimate.trains:
        return f"does not fit: {text}. 'littlecascade data cache' fills it on another machine, where there is more."
    if plan.ways and plan.ways[0].estimate.trains:
        return f"does not fit as it is: {text}. It fits with"
    if plan.ways and plan.ways[0].values:
        least, values = plan.ways[0].estimate.training, told(plan.ways[0].values)
        return (
            f"does not fit: {text}. The least is {gib(least.total)} ({least.phase}), with {values}. "
            f"{_smaller(plan.best.config)}"
        )
    return f"does not fit: {text}. {_smaller(plan.best.config)}"


def _smaller(config: RunConfig) -> str:
    """What takes less than all settings that leave a training what it is."""
    alone = ", batch_size=1 with fused_backward=true," if config.batch_size > 1 and not config.fused_backward else ""
    return f"A smaller image_size{alone} or a smaller model takes less."


def as_json(plan: Plan) -> dict[str, Any]:
    """All of it in plain values, bytes and seconds."""
    return {
        "kind": plan.kind,
        "target": plan.target.name,
        "memory": int(plan.target.memory),
        "fits": plan.estimate.fits,
        **_values(plan.estimate),
        "ways": [
            {"set": dict(way.values), "costs": list(way.costs), "fits": way.estimate.fits, **_values(way.estimate)}
            for way in plan.ways
        ],
    }


def gib(size: float) -> str:
    """Bytes in words.

    >>> gib(3.5 * 2**30)
    '3.5 GiB'
    """
    return f"{size / GIB:.1f} GiB" if size >= 0.1 * GIB else f"{size / GIB:.2f} GiB"


def _values(estimate: Estimate) -> dict[str, Any]:
    phases = {peak.phase: {"total": peak.total, **peak.bytes} for peak in estimate.peaks}
    return {"peak": estimate.highest.total, "phases": phases, "seconds": estimate.simulation.seconds}


def _grid(estimate: Estimate) -> list[str]:
    shown = [part for part in PARTS if any(peak.bytes.get(part, 0) >= 0.005 * GIB for peak in estimate.peaks)]
    header = ["GiB at the most", "in all", *(SHORT.get(part, part) for part in shown)]
    rows = [header, *(_row(peak, shown, peak is estimate.highest) for peak in estimate.peaks)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in _cells(row, widths)
        )
        for row in rows
    ]


def _cells(row: Sequence[str], widths: Sequence[int]) -> Any:
    return enumerate(zip(row, widths, strict=True))


def _row(peak: Peak, parts: Sequence[str], highest: bool) -> list[str]:
    cells = [peak.bytes.get(part, 0) / GIB for part in parts]
    return [
        f"{'> ' if highest else '  '}{peak.phase}",
        f"{peak.total / GIB:.2f}",
        *(f"{cell:.2f}" if cell >= 0.005 else "" for cell in cells),
    ]


def _speed(estimate: Estimate) -> str:
    simulation, rates = estimate.simulation, estimate.target.rates
    updates = estimate.config.updates
    each, whole = (told_time(simulation.seconds * count) for count in (1, updates))
    return f"time: roughly {each} an update, {whole} for {updates:,} (an estimate: {rates.source})"
