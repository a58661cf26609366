"""Plans of runs of size `tiny`, whose parameters can be counted."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from littlecascade.memory.cards import GIB
from littlecascade.models.stage_c import StageC
from littlecascade.presets import TINY
from littlecascade.training.config import RunConfig
from littlecascade.training.config_file import parse_config
from littlecascade.training.plan.plan import Plan, make_plan
from littlecascade.training.plan.rates import Rates
from littlecascade.training.plan.savings import LADDER, applicable, changed, told
from littlecascade.training.plan.simulate import Simulation, simulate
from littlecascade.training.plan.table import as_json, render
from littlecascade.training.plan.target import Target
from littlecascade.training.run import TASKS

RATES = Rates(half=1e12, single=1e12, bandwidth=1e11, launch=0.0, source="made up")
SHARED = {
    "experiment_id": "plan",
    "webdataset_path": "none",
    "lr": 1e-4,
    "updates": 100,
    "image_size": 128,
    "batch_size": 4,
    "precision": "float32",
}
DIFFUSION = {
    "effnet_checkpoint_path": "effnet_encoder.safetensors",
    "previewer_checkpoint_path": "previewer.safetensors",
}
OWN: dict[str, dict[str, Any]] = {
    "a": {"crop": 32, "adversarial_weight": 0.1},
    "compressor": {},
    "text": {"teacher_path": "teacher.safetensors", "tokenizer_path": "text"},
    "image": {"text_path": "text"},
    "b": DIFFUSION | {"stage_a_checkpoint_path": "stage_a.safetensors"},
    "c": DIFFUSION | {"image_path": "image", "validation_prompts": ["a"]},
    "lora": DIFFUSION | {"generator_checkpoint_path": "stage_c.safetensors", "rank": 2},
    "lora_b": DIFFUSION
    | {"stage_a_checkpoint_path": "stage_a.safetensors", "generator_checkpoint_path": "stage_b.safetensors", "rank": 2},
}


def config(kind: str, **values: Any) -> RunConfig:
    return parse_config(TASKS[kind].config, SHARED | OWN[kind] | values)


@cache
def simulated(kind: str, gpu: bool = False, **values: Any) -> Simulation:
    return simulate(kind, config(kind, **values), RATES, gpu=gpu)


def bytes_of(simulation: Simulation, phase: str) -> dict[str, int]:
    return dict(next(peak for peak in simulation.peaks if peak.phase == phase).bytes)


def parameters() -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in StageC(TINY.stage_c).parameters())


def near(size: int, bytes: float) -> bool:
    """Storages are rounded up to blocks, each by little."""
    return bytes <= size <= 1.01 * bytes


def test_a_finetune_in_float32_has_twenty_bytes_a_weight() -> None:
    """Weight, gradient, two moments and average, of four bytes each."""
    count, found = parameters(), bytes_of(simulated("c"), "later updates")
    assert near(found["weights"], 4 * count)
    assert near(found["averages"], 4 * count)
    assert near(found["optimizer"], 8 * count)
    assert near(found["gradients"], 4 * count)
    assert "master weights" not in found


def test_before_the_first_update_there_is_no_state_of_the_optimizer() -> None:
    """It comes about while gradients go: what is there of both together is less than both whole."""
    count, found = parameters(), bytes_of(simulated("c"), "first update")
    assert found["gradients"] + found["optimizer"] < 10 * count
    assert "optimizer" not in bytes_of(simulated("c"), "loading")


def test_a_finetune_in_float16_on_a_gpu_has_masters_and_half_the_gradients() -> None:
    count, found = parameters(), bytes_of(simulated("c", gpu=True, precision="float16"), "later updates")
    assert near(found["master weights"], 4 * count)
    assert near(found["optimizer"], 8 * count)
    # layers that read a skip are float32, since the stream is divided
    assert 2 * count < found["weights"] < 2.5 * count


def test_a_lora_has_gradients_and_states_of_its_own_alone() -> None:
    count, found = parameters(), bytes_of(simulated("lora"), "later updates")
    assert near(found["weights"], 4 * count + found["averages"])
    # two moments of four bytes, as an average has; of the gradients, those that are there when most is in memory
    assert found["optimizer"] == pytest.approx(2 * found["averages"], rel=0.1)
    assert 0 < found["gradients"] <= found["averages"]
    assert found["averages"] < 0.01 * count * 4


@pytest.mark.slow
def test_recomputing_and_smaller_micro_batches_shrink_the_activations() -> None:
    def most(**values: Any) -> int:
        """A batch so large that the most is in memory while activations are, and not while weights are updated."""
        return bytes_of(simulated("c", batch_size=1024, **values), "first update")["activations"]

    assert most(gradient_checkpointing=True) < 0.7 * most()
    assert most(grad_accum_steps=4) < 0.3 * most()


@pytest.mark.slow
def test_updates_within_the_backward_pass_leave_no_gradients() -> None:
    values = {"fused_backward": True, "optimizer": "adafactor", "ema_beta": 0.0, "ema_iters": 1}
    found = bytes_of(simulated("c", **values), "later updates")
    assert found.get("gradients", 0) < 0.2 * 4 * parameters()
    assert found["optimizer"] < 0.05 * 4 * parameters()
    assert "averages" not in found


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in OWN if kind not in ("c", "lora")])
def test_every_kind_of_training_runs_without_its_files(kind: str) -> None:
    simulation = simulated(kind, gpu=kind in ("a", "b", "image"))
    names = ["filling the cache", "loading", "first update", "later updates", "preview", "checkpoint", "export"]
    assert [peak.phase for peak in simulation.peaks] == names
    assert bytes_of(simulation, "later updates")["optimizer"] > 0
    assert simulation.seconds > 0


def small(memory: float, *, gpu: bool = True) -> Target:
    return Target("a small one", gpu, memory, 0.0, 0.0, True, RATES)


@cache
def planned(memory: float, *given: str) -> Plan:
    return make_plan("c", config("c", precision="bfloat16"), small(memory), given, ways=2)


def test_a_run_that_fits_is_left_alone() -> None:
    plan = planned(GIB)
    assert plan.estimate.fits
    assert plan.ways == ()
    assert render(plan).count("fits: about") == 1


@pytest.mark.slow
def test_a_run_that_does_not_fit_is_told_how_it_would_the_best_quality_first() -> None:
    need = planned(GIB).estimate.highest.total
    plan = planned(0.75 * need)
    assert not plan.estimate.fits
    best = plan.ways[0]
    assert best.estimate.fits
    assert told(best.values) in render(plan)
    # what only takes time comes before what rounds, and that before what gives up momentum, masters or averages
    assert best.values["offload"] == "optimizer"
    assert not best.values.keys() & {"optimizer", "master_weights", "ema_beta"}


@pytest.mark.slow
def test_savings_that_only_count_beside_others_are_found() -> None:
    """Activations are little beside the states of AdamW, and most of what is there once these are gone."""
    run = config("c", precision="bfloat16", batch_size=256, fused_backward=True)  # which leaves the batch in one piece
    all_of_it = {"gradient_checkpointing": True, "offload": "all", "optimizer": "adafactor"}
    all_of_it |= {"master_weights": "none", "ema_beta": 0.0, "ema_iters": 1}
    least = make_plan("c", run.model_copy(update=all_of_it), small(GIB), ways=0).estimate.training.total
    assert make_plan("c", run, small(1.01 * least), ways=1).ways[0].estimate.trains


@pytest.mark.slow
def test_keys_that_were_given_are_obeyed() -> None:
    need = planned(GIB).estimate.highest.total
    plan = planned(0.75 * need, "offload", "fused_backward")
    assert plan.ways[0].estimate.fits
    assert plan.ways[0].values["optimizer"] == "adamw8bit"
    assert not plan.ways[0].values.keys() & {"offload", "fused_backward"}


@pytest.mark.slow
def test_a_batch_is_cut_into_pieces_where_their_number_was_given() -> None:
    """As the official files do, for eight large cards; and what takes less than all pieces is told."""
    run = config("c", precision="bfloat16", batch_size=64, grad_accum_steps=2)
    pieces = run.model_copy(update={"grad_accum_steps": 16})
    need = make_plan("c", pieces, small(GIB), ways=0).estimate.training.total
    given = run.model_fields_set | {"gradient_checkpointing", "offload"}
    [way] = make_plan("c", run, small(1.01 * need), given, ways=1).ways
    assert way.values == {"grad_accum_steps": 16}
    assert way.costs == ("the same weights", "more and smaller steps")
    assert "batch_size=1 with fused_backward=true" in render(make_plan("c", run, small(1e6), given, ways=1))


def test_on_a_cpu_nothing_is_moved_to_its_own_memory() -> None:
    run, parts = config("c"), {"optimizer", "weights"}
    offered = [[saving.values(run) for saving in applicable(run, (), parts, gpu=gpu)] for gpu in (False, True)]
    assert {"offload": "optimizer"} not in offered[0]
    assert {"offload": "optimizer"} in offered[1]


@pytest.mark.slow
def test_where_nothing_is_enough_the_least_is_told() -> None:
    plan = planned(1e6)
    assert not plan.best.fits
    assert plan.best.highest.total < plan.estimate.highest.total
    assert "does not fit: about" in render(plan)
    assert as_json(plan)["ways"][0]["fits"] is False


def test_rows_of_the_target_are_counted() -> None:
    target = replace(small(GIB), context=100.0, fragments=0.5)
    estimate = replace(planned(GIB).estimate, target=target)
    for bare, whole in zip(estimate.simulation.peaks, estimate.peaks, strict=True):
        assert whole.total == bare.total + 100 + bare.total // 2


def test_every_saving_sets_keys_that_there_are_and_changes_something() -> None:
    run = config("lora", precision="bfloat16", batch_size=8)
    for saving in LADDER:
        values = saving.values(run)
        assert values.keys() <= type(run).model_fields.keys()
        assert not values or changed(run, values) is not None
