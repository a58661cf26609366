from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import psutil
import pytest
import torch
from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.errors import InputError
from littlecascade.training.runstate import RunFolder


def tensors(folder: Path) -> dict[str, Tensor]:
    """All that a run leaves: its last checkpoint, and what it exported."""
    return files.load(folder / "toy" / "state.safetensors") | files.load(folder / "toy" / "export" / "toy.safetensors")


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


MODES = [
    {},
    {"precision": "bfloat16"},
    {"optimizer": "muon", "grad_accum_steps": 2},
    {"precision": "float16", "grad_accum_steps": 2},
    {"optimizer": "adamw8bit", "ema_beta": 0.0, "ema_iters": 1},
    {"optimizer": "adafactor", "precision": "float16", "fused_backward": True},
    {"optimizer": "prodigy", "lr": 1.0, "precision": "bfloat16"},
    {"optimizer": "adamw", "precision": "bfloat16", "master_weights": "none", "grad_accum_steps": 2},
    {"optimizer": "adamw8bit", "precision": "float16", "master_weights": "none"},
    {"optimizer": "adafactor", "precision": "bfloat16", "master_weights": "none", "fused_backward": True},
    {"optimizer": "adafactor", "precision": "float16", "master_weights": "none", "ema_beta": 0.0, "ema_iters": 1},
    {"optimizer": "muon", "precision": "bfloat16", "master_weights": "none", "fused_backward": True},
]


class Killed(BaseException):
    """Nothing is done any more, as after kill -9."""


each_mode = pytest.mark.parametrize("settings", MODES, ids=lambda given: "-".join(map(str, given.values())) or "plain")


@each_mode
def test_a_run_that_was_killed_ends_like_one_that_was_not(toy: ModuleType, tmp_path: Path, settings) -> None:
    """In every mode; killed twice, between checkpoints. Wide enough that the first layer's moments are of 8 bits."""
    toy.run(toy.config(tmp_path / "whole", **settings), width=700)
    config = toy.config(tmp_path / "parts", **settings)
    folder = RunFolder(config.folder)
    for stop, reached in ((9, 7), (16, 14)):
        task = toy.ToyTask(config, width=700)

        def spoil(call: int, loss: Tensor, last: int = stop * config.grad_accum_steps) -> Tensor:
            if call > last:
                raise Killed
            return loss

        task.spoil = spoil
        folder.open({})
        with pytest.raises(Killed):
            toy.Trainer(task, config, folder).run()
        assert folder.load().step == reached
    toy.run(config, width=700)
    assert_equal(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))


@pytest.mark.skipif(not hasattr(psutil.Process, "memory_maps"), reason="this system does not tell what is mapped")
@each_mode
def test_a_checkpoint_is_not_held_once_it_was_read(toy: ModuleType, tmp_path: Path, settings) -> None:
    """Windows can't replace a file that is mapped into memory, and the next checkpoint replaces this one."""
    config = toy.config(tmp_path, **settings)
    toy.run(config)
    trainer = toy.Trainer(toy.ToyTask(config), config, RunFolder(config.folder))
    assert trainer.step == config.updates
    assert [place.path for place in psutil.Process().memory_maps() if place.path.startswith(str(tmp_path))] == []


@pytest.mark.parametrize("settings", [{}, {"precision": "bfloat16"}, {"optimizer": "muon", "grad_accum_steps": 2}])
def test_a_run_that_was_interrupted_ends_like_one_that_was_not(toy: ModuleType, tmp_path: Path, settings) -> None:
    toy.run(toy.config(tmp_path / "whole", **settings))
    config = toy.config(tmp_path / "parts", **settings)
    folder = RunFolder(config.folder)
    for stop in (3, 12):  # before and after the second phase starts
        task = toy.ToyTask(config)

        def spoil(call: int, loss: Tensor, stop: int = stop) -> Tensor:
            if call == stop * config.grad_accum_steps:
                os.kill(os.getpid(), signal.SIGINT)
            return loss

        task.spoil = spoil
        folder.open({})
        assert toy.Trainer(task, config, folder).run() is False
        assert folder.load().step == stop
    toy.run(config)
    assert_equal(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))


def test_time_that_is_up_stops_a_run(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.config(tmp_path)
    RunFolder(config.folder).open({})
    trainer = toy.Trainer(toy.ToyTask(config), config, RunFolder(config.folder))
    assert trainer.run(max_minutes=0.0) is False
    assert trainer.run() is True


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_ends_like_one_that_was_not(toy: ModuleType, tmp_path: Path) -> None:
    whole, command = (
        [sys.executable, toy.__file__, str(tmp_path / name), "updates=300", "batch_size=2"]
        for name in ("whole", "parts")
    )
    subprocess.run(whole, check=True)
    folder, chance = RunFolder(tmp_path / "parts" / "toy"), random.Random(0)
    reached = 0
    for _ in range(3):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and (not folder.state_path.is_file() or folder.load().step <= reached):
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.3))
            process.kill()
        reached = folder.load().step
    subprocess.run(command, check=True)
    assert_equal(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))
    steps = [row["step"] for row in folder.metrics()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 300


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_changes_nothing_and_is_counted(toy: ModuleType, tmp_path: Path, poison) -> None:
    config = toy.config(tmp_path, updates=4, ema_iters=1)
    RunFolder(config.folder).open({})
    task = toy.ToyTask(config)
    before: dict[str, Tensor] = {}

    def spoil(call: int, loss: Tensor) -> Tensor:
        if call == 2:
            return loss * poison
        if call == 3:
            assert_equal(before, {name: tensor for name, tensor in task.network.state_dict().items() if name in before})
        return loss

    def remember(module: torch.nn.Module, arguments: tuple[Tensor]) -> None:
        if int(task.calls) == 1:
            before.update({name: tensor.clone() for name, tensor in task.network.named_parameters()})

    task.spoil = spoil
    task.network.register_forward_pre_hook(remember)
    trainer = toy.Trainer(task, config, RunFolder(config.folder))
    assert trainer.run() is True
    assert before
    assert (trainer.skipped, trainer.step) == (1, 4)
    assert all(tensor.isfinite().all() for tensor in tensors(tmp_path).values())


def test_a_gradient_that_is_not_finite_is_skipped_and_leaves_the_running_statistics(toy: ModuleType, tmp_path) -> None:
    config = toy.config(tmp_path, updates=1)
    RunFolder(config.folder).open({})
    task = toy.ToyTask(config)
    expected = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    task.network[0].weight.register_hook(lambda gradient: gradient * math.nan)
    trainer = toy.Trainer(task, config, RunFolder(config.folder))
    trainer.run()
    assert trainer.skipped == 1
    assert_equal(expected, dict(task.network.state_dict()))
    (row,) = trainer.folder.metrics()
    assert row["one_grad_norm"] is None
    assert math.isfinite(row["one_loss"])


def test_what_is_not_finite_is_null_in_the_metrics(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.config(tmp_path, updates=1)
    task = toy.ToyTask(config)
    task.spoil = lambda call, loss: loss * math.nan
    RunFolder(config.folder).open({})
    toy.Trainer(task, config, RunFolder(config.folder)).run()
    text = (config.folder / "metrics.jsonl").read_text()
    assert json.loads(text)["one_loss"] is None
    assert "NaN" not in text


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_exported_are_the_averages_in_full_precision(toy: ModuleType, tmp_path: Path, precision: str) -> None:
    config = toy.config(tmp_path, updates=9, ema_iters=1, ema_beta=0.5, precision=precision)
    toy.run(config)
    state, exported = (
        files.load(path) for path in (config.folder / "state.safetensors", *config.folder.glob("export/*"))
    )
    for name in ("0.weight", "1.running_mean", "3.bias"):
        assert torch.equal(exported[name], state[f"ema.network.{name}"])
        assert not torch.equal(exported[name], exported[name].bfloat16().float())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_previews_see_the_averages_and_training_does_not(toy: ModuleType, tmp_path: Path, precision: str) -> None:
    config = toy.config(tmp_path, updates=9, ema_iters=1, ema_beta=0.5, precision=precision)
    RunFolder(config.folder).open({})
    task = toy.ToyTask(config)
    trainer = toy.Trainer(task, config, RunFolder(config.folder))
    seen: list[bool] = []

    def preview() -> None:
        tensors = task.network.state_dict()
        for name in ("0.weight", "1.running_mean"):
            assert torch.equal(tensors[name], trainer.ema.average[f"network.{name}"].to(tensors[name]))
        seen.append(task.network.training)

    task.preview = preview
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    trainer.ema.average["network.0.weight"].add_(1)
    trainer.preview()
    assert_equal(before, dict(task.network.state_dict()))
    assert task.network.training
    trainer.run()
    assert seen == [False] * 4  # at first, before the first update, at 7 and at 9


def test_previews_are_drawn_when_due(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.config(tmp_path, updates=9)
    toy.run(config)
    assert [path.name for path in sorted(config.folder.glob("preview-*"))] == [
        "preview-000000.png",
        "preview-000007.png",
        "preview-000009.png",
    ]
    page = (config.folder / "report.html").read_text("utf-8")
    assert page.index("preview-000000.png") < page.index("preview-000009.png") < page.index("preview-000007.png")


def test_a_full_disk_leaves_the_previous_checkpoint(toy: ModuleType, tmp_path: Path, monkeypatch) -> None:
    config = toy.config(tmp_path, updates=20, save_every=5)
    toy.run(toy.config(tmp_path, updates=5, save_every=5))
    before = (config.folder / "state.safetensors").read_bytes()

    def full(file: BinaryIO, *rest: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "_write", full)
        with pytest.raises(OSError, match=r"checkpoint of update 10 can't be written .* No space left .* untouched"):
            toy.run(config)
    assert (config.folder / "state.safetensors").read_bytes() == before
    assert not list(config.folder.glob(".*"))
    assert toy.run(config).step == 20


def test_the_checkpoint_of_another_network_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    toy.run(toy.config(tmp_path))
    with pytest.raises(InputError, match=r"state\.safetensors is of another network: .* experiment_id"):
        toy.run(toy.config(tmp_path), width=9)


def test_a_file_that_is_no_checkpoint_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.config(tmp_path)
    files.save(config.folder / "state.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(InputError, match="no checkpoint of a run"):
        toy.run(config)


def test_backups_stay(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.config(tmp_path, updates=9, save_every=3, backup_every=6)
    toy.run(config)
    assert [path.name for path in config.folder.glob("backup-*")] == ["backup-000006.safetensors"]
    assert files.metadata(config.folder / "backup-000006.safetensors")["step"] == "6"
