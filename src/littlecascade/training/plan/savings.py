"""What makes a run take less memory, the best quality first: for advice, `memory: auto` and `training.room` alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from littlecascade.errors import InputError
from littlecascade.training.config import DiffusionRun, RunConfig
from littlecascade.training.config_adapters import AdapterRun

Values = Mapping[str, Any]

PIECES = "grad_accum_steps"
"""The key that may be raised where it is given, too: an update stays the same, and a run would do it by itself."""

PARTS_AT_ONCE = 4
"""Samples of a micro-batch that still keep a GPU busy."""


@dataclass(frozen=True)
class Saving:
    """values: what to set in a configuration, nothing where it does not help it. part: the kind of storages that it
    makes smaller. cost: what it takes in return. exact: whether that is time alone, and weights stay the same.
    running: whether a run can change to it amid an update. gpu: whether it is of no use on a CPU.
    """

    values: Callable[[RunConfig], Values]
    part: str
    cost: str
    exact: bool = False
    running: bool = False
    gpu: bool = False


def _pieces(size: int) -> Callable[[RunConfig], Values]:
    """Micro-batches of `size` at most; not where samples of a batch are told from each other."""

    def values(config: RunConfig) -> Values:
        if config.micro_batch <= size or not isinstance(config, DiffusionRun):
            return {}
        most = next(count for count in range(size, 0, -1) if config.batch_size % count == 0)
        return {PIECES: config.batch_size // most}

    return values


def _recompute(config: RunConfig) -> Values:
    return {"gradient_checkpointing": True} if isinstance(config, DiffusionRun) else {}


def _offload(what: str) -> Callable[[RunConfig], Values]:
    """After one thing has been offloaded, all are with the next."""
    return lambda config: {"offload": what if config.offload in ("none", what) else "all"}


def _base(packing: str) -> Callable[[RunConfig], Values]:
    return lambda config: {"base_weights": packing} if isinstance(config, AdapterRun) else {}


def _optimizer(name: str) -> Callable[[RunConfig], Values]:
    return lambda config: {"optimizer": name} if config.optimizer in ("adamw", "adamw8bit", "muon") else {}


def _no_masters(config: RunConfig) -> Values:
    return {"master_weights": "none"} if config.precision in ("bfloat16", "float16") else {}


def _no_average(config: RunConfig) -> Values:
    return {"ema_beta": 0.0, "ema_iters": 1}


_STEPS, _ACTIVATIONS = "more and smaller steps", "activations"

LADDER: tuple[Saving, ...] = (
    Saving(_pieces(PARTS_AT_ONCE), _ACTIVATIONS, _STEPS, exact=True, running=True),
    Saving(_recompute, _ACTIVATIONS, "about a third more time", exact=True, running=True),
    Saving(_pieces(1), _ACTIVATIONS, _STEPS, exact=True, running=True),
    Saving(_offload("weights"), "weights", "frozen weights travel in every step", exact=True),
    Saving(
        _offload("optimizer"), "optimizer", "masters, averages and states travel in every step", exact=True, gpu=True
    ),
    Saving(_offload("activations"), _ACTIVATIONS, "what blocks are given travels in every step", exact=True, gpu=True),
    Saving(_base("int8"), "weights", "frozen weights are rounded to 8 bits"),
    Saving(_optimizer("adamw8bit"), "optimizer", "the optimizer's moments are rounded to 8 bits"),
    Saving(lambda config: {"fused_backward": True}, "gradients", "each gradient is clipped by its own norm"),
    Saving(_no_masters, "master weights", "updates of 16-bit weights are rounded at random"),
    Saving(_base("nf4"), "weights", "frozen weights are rounded to 4 bits"),
    Saving(_optimizer("adafactor"), "optimizer", "no momentum"),
    Saving(_no_average, "averages", "the last weights are exported, not an average"),
)
"""The best quality first, and of the same quality the quickest first."""

KEYS = frozenset(
    {
        *(PIECES, "gradient_checkpointing", "offload", "base_weights", "optimizer", "fused_backward"),
        *("master_weights", "ema_beta", "ema_iters"),
    }
)
"""What the ladder may set."""


def applicable(config: RunConfig, given: Collection[str], parts: Collection[str], *, gpu: bool) -> Iterator[Saving]:
    """The savings that may help a run, in their order.

    given: keys that are left as they are. parts: the kinds of storages that are worth it. gpu: where it runs.
    """
    for saving in LADDER if gpu else [saving for saving in LADDER if not saving.gpu]:
        values = saving.values(config)
        if saving.part in parts and values and not values.keys() & set(given) and changed(config, values) is not None:
            yield saving


def in_order(savings: Collection[Saving]) -> list[Saving]:
    """As the ladder has them."""
    return [saving for saving in LADDER if saving in savings]


def changed(config: RunConfig, values: Values) -> RunConfig | None:
    """A configuration with other values, None where these change nothing or contradict the others."""
    if all(getattr(config, key) == value for key, value in values.items()):
        return None
    other = config.model_copy(update=dict(values))
    try:
        other.check()
    except InputError:
        return None
    return other


def remaining(config: RunConfig) -> list[str]:
    """What a run has not set yet and can't turn to amid an update, as words."""
    options = (saving.values(config) for saving in LADDER if not saving.running)
    lines = (
        " with ".join(f"{key} {_yaml(value)}" for key, value in values.items())
        for values in options
        if values and changed(config, values) is not None
    )
    return list(dict.fromkeys(lines))


def costs(savings: Collection[Saving]) -> tuple[str, ...]:
    """What savings take in return, as words."""
    same = ("the same weights",) if all(saving.exact for saving in savings) else ()
    return (*same, *dict.fromkeys(saving.cost for saving in savings))


def told(values: Values) -> str:
    """As words of a command line.

    >>> told({"gradient_checkpointing": True, "optimizer": "adafactor"})
    '--set gradient_checkpointing=true --set optimizer=adafactor'
    """
    return " ".join(f"--set {key}={_yaml(value)}" for key, value in values.items())


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
