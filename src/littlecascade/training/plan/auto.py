"""`memory: auto`: keys that the user did not give are set so that the run fits, the best quality first; and what a run
turns to that ran out of memory all the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littlecascade.checkpoint import places
from littlecascade.errors import InputError
from littlecascade.memory.cards import GIB
from littlecascade.memory.measure import free_memory
from littlecascade.memory.precision import choose_device
from littlecascade.presets import find_preset
from littlecascade.training.config import RunConfig
from littlecascade.training.config_file import Config
from littlecascade.training.plan.savings import KEYS, PIECES, applicable, costs, told

if TYPE_CHECKING:
    from littlecascade.training.plan.plan import Plan
    from littlecascade.training.room import OutOfRoomError

SMALL_FILES, SMALL_PIXELS, ENOUGH = 0.25 * GIB, 1 << 22, 4 * GIB
"""Bytes of weight files and pixels of a micro-batch up to which a run is taken to fit, without a plan, where so many
bytes are free."""


@dataclass(frozen=True)
class Choice:
    """A configuration that is set so that it fits, as far as that can be, and what is to be said of that."""

    config: RunConfig
    line: str = ""
    fits: bool = True


def choose(kind: str, config: RunConfig) -> Choice:
    """How a new run of a kind of training is to go on this machine. Keys that were given stay as they are.

    Where torch can't run it without data the run stays as it is, too.
    """
    if config.memory == "given" or surely_fits(config):
        return Choice(config)
    # late, since plans are made of the tasks, which are what this is for
    from littlecascade.training.plan.table import gib, verdict

    try:
        plan = plan_here(kind, config)
    except InputError:
        raise
    except Exception as error:
        return Choice(config, f"memory: it can't be told what this run takes ({error!r}); it goes on as configured")
    if plan.estimate.trains:
        return Choice(config) if plan.estimate.fits else Choice(config, f"memory: {verdict(plan)}", fits=False)
    if not plan.ways or not plan.ways[0].values:
        return Choice(config, f"memory: {verdict(plan)}", fits=False)
    way, need = plan.ways[0], plan.estimate.training
    so, free = way.estimate.training.total, plan.target.memory
    line = (
        f"memory: {told(way.values)} chosen ({'; '.join(way.costs)}): the run takes about {gib(so)} so, as configured "
        f"{gib(need.total)}, and {gib(free)} are free"
    )
    if not way.estimate.trains:
        line += ", which may still be too much: a smaller image_size or model takes less"
    return Choice(config.model_copy(update=dict(way.values)), line, way.estimate.trains)


def less(kind: str, config: RunConfig, error: OutOfRoomError) -> Choice | None:
    """How a run goes on from its checkpoint after memory ran out: with the next saving of its plan that it may change
    to. None where there is none, and where torch can't run it without data.
    """
    from littlecascade.training.plan.plan import large

    present = error.config
    try:
        estimate = plan_here(kind, present, ways=0).estimate
    except Exception:
        return None
    kept = {*config.fixed, PIECES}  # by which samples are counted
    parts = set[str]().union(*map(large, estimate.peaks))  # of any phase: it need not be the highest that ran out
    saving = next(applicable(present, kept, parts, gpu=estimate.target.gpu), None)
    if saving is None:
        return None
    values = saving.values(present)
    line = f"{error.what}: the run goes on with {told(values)} ({'; '.join(costs([saving]))})"
    recompute = {"gradient_checkpointing": present.gradient_checkpointing}
    return Choice(config.model_copy(update=recompute | dict(values)), line)


def plan_here(kind: str, config: RunConfig, ways: int = 1) -> Plan:
    """The plan of a run on this machine, with ways to make it fit. Raises `InputError` where the run would."""
    from littlecascade.training.plan.plan import make_plan
    from littlecascade.training.plan.target import Target

    return make_plan(kind, config, Target.here(choose_device(config.device)), config.model_fields_set, ways=ways)


def kept(config: Config, stored: Mapping[str, Any]) -> Config:
    """A configuration that goes on with what was chosen for it. stored: the run's own, as it was started."""
    if config.memory == "given":
        return config
    left = KEYS & type(config).model_fields.keys() & stored.keys() - config.model_fields_set
    if stored.get(PIECES, 0) > config.grad_accum_steps:
        left |= {PIECES}
    return config.model_copy(update={key: stored[key] for key in left})


def surely_fits(config: RunConfig) -> bool:
    """Whether a run is so small that a plan, which takes seconds, has nothing to say of it."""
    if find_preset(config.model_version).name in places.STAGES:
        return False
    files = [value for _, value in config if isinstance(value, Path) and value.is_file()]
    pixels = config.micro_batch * config.image_size**2
    small = sum(file.stat().st_size for file in files) <= SMALL_FILES and pixels <= SMALL_PIXELS
    return small and free_memory(choose_device(config.device)) >= ENOUGH
