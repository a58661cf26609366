"""`memory: auto`, on a machine that is said to have little memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from littlecascade.memory.cards import GIB
from littlecascade.training.config_file import load_config, parse_config
from littlecascade.training.plan import auto, target
from littlecascade.training.plan.auto import choose, kept, surely_fits
from littlecascade.training.plan.target import PROCESS
from littlecascade.training.run import TASKS, train

Values = dict[str, Any]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say how many bytes are free."""

    def say(bytes: float) -> None:
        for module in (auto, target):
            monkeypatch.setattr(module, "free_memory", lambda device: int(bytes))

    return say


@pytest.fixture
def values(made_up: dict[str, Values], tmp_path: Path) -> Values:
    changes = {"output_path": str(tmp_path / "runs"), "batch_size": 1, "updates": 1, "validation_prompts": []}
    return made_up["c"] | changes


def test_small_runs_need_no_plan(values: Values, free: Any) -> None:
    free(16 * GIB)
    assert surely_fits(parse_config(TASKS["c"].config, values))
    assert not surely_fits(parse_config(TASKS["c"].config, values | {"image_size": 1024, "batch_size": 8}))
    free(1 * GIB)
    assert not surely_fits(parse_config(TASKS["c"].config, values))
    large = parse_config(TASKS["c"].config, values | {"memory": "given", "model_version": "3.6B"})
    assert not surely_fits(large)
    assert choose("c", large).config is large  # at once, since it is not to be planned


@pytest.mark.slow
def test_what_is_chosen_is_told_recorded_and_kept(
    values: Values, free: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In float32 the network has 20 bytes a weight, 0.26 GiB in all: less than that are free at the start."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    free(PROCESS + 0.22 * GIB)
    assert train("c", path) is not None
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("memory:"))
    assert "--set optimizer=adamw8bit" in line
    recorded = yaml.safe_load((tmp_path / "runs" / "c" / "config.yaml").read_text("utf-8"))
    assert recorded["optimizer"] == "adamw8bit"

    free(64 * GIB)  # now there is more, but the run has its optimizer's state
    again = load_config(TASKS["c"].config, path, ["updates=2"])
    assert kept(again, recorded).optimizer == "adamw8bit"
    assert train("c", path, ["updates=2"]) is not None
    assert yaml.safe_load((tmp_path / "runs" / "c" / "config.yaml").read_text("utf-8"))["optimizer"] == "adamw8bit"


def test_given_keys_are_not_replaced_by_what_was_kept(values: Values) -> None:
    given = parse_config(TASKS["c"].config, values | {"gradient_checkpointing": False})
    assert kept(given, {"gradient_checkpointing": True, "fused_backward": True}).gradient_checkpointing is False
    assert kept(given, {"fused_backward": True}).fused_backward is True
    raised = parse_config(TASKS["c"].config, values | {"batch_size": 8, "grad_accum_steps": 2})
    assert kept(raised, {"grad_accum_steps": 8}).grad_accum_steps == 8  # by which samples are counted
    assert kept(raised, {"grad_accum_steps": 1}).grad_accum_steps == 2
    left = given.model_copy(update={"memory": "given"})
    assert kept(left, {"fused_backward": True}) is left
