"""Runs for which memory is so short that they have to be built anew with a saving of their plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensor

from littlecascade.errors import InputError
from littlecascade.training.run import train
from littlecascade.training.stock import Stock
from littlecascade.training.task import Batch, Loss
from littlecascade.training.tasks.lora import LoraTask
from littlecascade.training.tasks.stage_c import StageCTask

SHORT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

Values = dict[str, Any]
Start = Callable[..., Path | None]


@pytest.fixture
def start(made_up: dict[str, Values], stage_c_file: Path, tmp_path: Path) -> Start:
    """Trains four updates of a Stage C, or of a LoRA on it: both made up, with a whole run's files."""

    def run(kind: str, name: str, **settings: Any) -> Path | None:
        own = {"generator_checkpoint_path": str(stage_c_file), "output_path": str(tmp_path / "runs"), "updates": 4}
        own |= {"rank": 2, "lora_alpha": 2} if kind == "lora" else {}
        own |= {"lr": 0.01, "save_every": 3, "ema_start_iters": 10, "experiment_id": name}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(made_up["c"] | own | settings), "utf-8")
        return train(kind, path)

    return run


def short_of(monkeypatch: pytest.MonkeyPatch, task: type[StageCTask], fits: Callable[[Any], bool], calls: int) -> None:
    """Have a task run out of memory from a call of its loss on, unless it is as it has to be, or only simulated."""
    original, count = task.loss, 0

    def loss(self: Any, phase: str, batch: Batch, *others: Any) -> Loss:
        nonlocal count
        if not any(isinstance(value, FakeTensor) for value in batch.values()):
            count += 1
            if count > calls and not fits(self):
                raise SHORT
        return original(self, phase, batch, *others)

    monkeypatch.setattr(task, "loss", loss)


def exported(folder: Path | None) -> bytes:
    assert folder is not None
    return next(folder.glob("*.safetensors")).read_bytes()


@pytest.mark.parametrize("calls", [0, 9])
def test_a_lora_goes_on_with_its_base_offloaded(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: int
) -> None:
    """From the first update on, or amid the third: the update that ran out is not lost, nor any before it."""
    whole = exported(start("lora", "whole", batch_size=4, grad_accum_steps=4))
    short_of(monkeypatch, LoraTask, lambda task: hasattr(task.network, "carrier"), calls)
    capsys.readouterr()
    assert exported(start("lora", "short", batch_size=4, grad_accum_steps=4)) == whole.replace(b"whole", b"short")
    said = [line for line in capsys.readouterr().err.splitlines() if "emory" in line]
    assert said == [
        f"Update {1 + calls // 4}: memory ran out (CUDA out of memory. Tried to allocate 2.00 GiB.); "
        "gradient_checkpointing is switched on.",
        "Memory is too short for a micro-batch of 1 with gradient_checkpointing: the run goes on with --set "
        "offload=weights (the same weights; frozen weights travel in every step)",
    ]
    kept = yaml.safe_load((tmp_path / "runs" / "short" / "config.yaml").read_text("utf-8"))
    assert (kept["offload"], kept["gradient_checkpointing"], kept["grad_accum_steps"]) == ("weights", True, 4)


def test_it_turns_to_one_saving_after_another(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short_of(monkeypatch, StageCTask, lambda task: task.config.ema_beta == 0, 0)
    assert start("c", "short", batch_size=1) is not None
    said = [line.split(" with --set ")[1] for line in capsys.readouterr().err.splitlines() if " with --set " in line]
    assert [line.split(" (")[0] for line in said] == ["fused_backward=true", "ema_beta=0 --set ema_iters=1"]


def test_where_no_saving_is_left_it_ends_in_words(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short_of(monkeypatch, StageCTask, lambda task: False, 0)
    with pytest.raises(InputError, match=r"^Memory is too short for a micro-batch of 1 .* What was trained up to"):
        start("c", "short", batch_size=2, optimizer="adafactor", ema_beta=0.0, ema_iters=1)
    assert " with --set " not in capsys.readouterr().err  # fused_backward does not go with parts of a batch


def test_what_a_fused_backward_left_half_done_is_done_anew(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the last checkpoint, at update 3 of 4, since some weights were updated and others were not."""
    settings = {"batch_size": 2, "fused_backward": True, "optimizer": "adafactor"}
    whole = exported(start("c", "whole", **settings))
    original, count = torch.Tensor.backward, 0

    def backward(self: Any, *arguments: Any, **keywords: Any) -> None:
        nonlocal count
        count += 1
        original(self, *arguments, **keywords)
        if count == 4:
            raise SHORT

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    capsys.readouterr()
    assert exported(start("c", "short", **settings)) == whole.replace(b"whole", b"short")
    assert (
        "Memory ran out when fused_backward had updated part of the weights: the run goes on with --set "
        "gradient_checkpointing=true"
    ) in capsys.readouterr().err


def test_a_preview_for_which_memory_is_short_is_left_out(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = exported(start("c", "whole", batch_size=2))

    def draw(self: Any) -> None:
        raise SHORT

    monkeypatch.setattr(StageCTask, "preview", draw)
    assert exported(start("c", "short", batch_size=2)) == whole.replace(b"whole", b"short")
    assert "Update 3: no preview, since memory ran out for it (CUDA out of memory." in capsys.readouterr().err
    assert not list((tmp_path / "runs" / "short").glob("preview-*.png"))
    assert list((tmp_path / "runs" / "whole").glob("preview-*.png"))


def test_networks_that_do_not_fit_are_offloaded_as_they_are_loaded(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Stock.base

    def base(self: Stock, role: str, network_config: Any, config: Any, checkpoint: Path) -> Any:
        if config.offload == "none":
            raise SHORT
        return original(self, role, network_config, config, checkpoint)

    monkeypatch.setattr(Stock, "base", base)
    assert start("lora", "short", batch_size=2) is not None
    line = "Memory ran out while networks and data were loaded: the run goes on with --set offload=weights"
    assert line in capsys.readouterr().err
