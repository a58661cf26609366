"""Memory that runs out on purpose."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from littlecascade.checkpoint import files
from littlecascade.errors import InputError
from littlecascade.training.config import RunConfig
from littlecascade.training.draws import Draws
from littlecascade.training.feeds import IndexFeed
from littlecascade.training.loop import Trainer
from littlecascade.training.room import Room, is_out_of_memory
from littlecascade.training.runstate import RunFolder
from littlecascade.training.task import Batch, Loss, Phase, Task

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] data. DefaultCPUAllocator: not enough memory: you tried"),
    RuntimeError("could not create a primitive"),
    MemoryError(),
]


def state(folder: Path) -> dict[str, Tensor]:
    return files.load(folder / "toy" / "state.safetensors")


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def short(toy: ModuleType, config: RunConfig, limit: int, error: Exception, when: str = "forward") -> Any:
    """A trainer whose task has memory for so many samples at once. when: "forward" or "backward"."""
    RunFolder(config.folder).open({})
    task = toy.ToyTask(config)

    def check(size: int) -> None:
        if size > limit:
            raise error

    class Costly(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.size = len(x)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            check(ctx.size)
            return gradients[0]

    def hook(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        if when == "forward":
            check(len(arguments[0]))
            return arguments
        return (Costly.apply(arguments[0]),)

    task.network[3].register_forward_pre_hook(hook)  # behind batch statistics and dropout
    return toy.Trainer(task, config, RunFolder(config.folder))


@pytest.mark.parametrize("when", ["forward", "backward"])
@pytest.mark.parametrize("settings", [{}, {"precision": "float16"}])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_it_ends_like_a_run_of_smaller_micro_batches(
    toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], when: str, settings: Any, accumulated: int
) -> None:
    given = {"batch_size": 8, "updates": 12, **settings}
    toy.run(toy.config(tmp_path / "small", grad_accum_steps=4, **given))
    config = toy.config(tmp_path / "large", grad_accum_steps=accumulated, **given)
    trainer = short(toy, config, 2, ERRORS[0], when)
    capsys.readouterr()
    assert trainer.run() is True
    assert_equal(state(tmp_path / "small"), state(tmp_path / "large"))
    lines = [line for line in capsys.readouterr().err.splitlines() if "memory ran out" in line]
    assert len(lines) == 3 - accumulated
    assert re.search(
        r"Update 1: memory ran out \(CUDA out of memory.*\); the batch of 8 goes on as 4 micro-batches of 2", lines[-1]
    )


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_kind_of_it_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a matmul primitive"))


def test_other_errors_go_through(toy: ModuleType, tmp_path: Path) -> None:
    trainer = short(toy, toy.config(tmp_path), 2, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.run()


def test_a_run_that_goes_on_keeps_the_smaller_size(toy: ModuleType, tmp_path: Path) -> None:
    """Even if there would be memory for more: the weights are to be those of the run that was not interrupted."""
    config = toy.config(tmp_path / "parts", batch_size=8, updates=10, save_every=5)
    whole = toy.config(tmp_path / "whole", batch_size=8, updates=10, save_every=5)
    short(toy, whole, 4, ERRORS[0]).run()
    stopped = short(toy, config, 4, ERRORS[0])
    stopped.task.spoil = _stop_after(10)  # two a step
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    toy.run(config)
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "parts"))


def _stop_after(last: int) -> Callable[[int, Tensor], Tensor]:
    def spoil(call: int, loss: Tensor) -> Tensor:
        if call > last:
            raise KeyboardInterrupt
        return loss

    return spoil


class Recomputing(nn.Linear):
    """Has memory for `limit` samples at once, or for `checkpointed` if it computes its activations anew."""

    checkpointing = False
    limit, checkpointed = 0, 1

    def forward(self, input: Tensor) -> Tensor:
        if len(input) > (self.checkpointed if self.checkpointing else self.limit):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(input)


class LinearTask(Task):
    def __init__(self, config: RunConfig) -> None:
        torch.manual_seed(0)
        self.feed = IndexFeed([range(8)], config.micro_batch, config.seed)
        self.network = Recomputing(3, 3)
        self.phases = [Phase("one", {"network": self.network})]

    def prepare(self, raw: list[int], draws: Draws) -> Batch:
        return {"x": draws.normal(3), "captions": [str(index) for index in raw], "scale": 2.0}

    def loss(self, phase: str, batch: Batch, draws: Draws, progress: float) -> Loss:
        assert len(batch["captions"]) == len(batch["x"])
        return Loss((self.network(batch["x"]) * batch["scale"]).square().mean())

    def preview(self) -> Image.Image | None:
        return None

    def export(self, folder: Path) -> None:
        files.save(folder / "toy.safetensors", dict(self.network.state_dict()))


def linear(config: RunConfig) -> Trainer:
    RunFolder(config.folder).open({})
    return Trainer(LinearTask(config), config, RunFolder(config.folder))


def test_at_micro_batches_of_one_it_computes_activations_anew(toy: ModuleType, tmp_path: Path, capsys: Any) -> None:
    trainer = linear(toy.config(tmp_path, batch_size=6, updates=2))
    assert trainer.run() is True
    said = [line.split("; ")[1] for line in capsys.readouterr().err.splitlines() if "memory ran out" in line]
    assert said == [
        "the batch of 6 goes on as 2 micro-batches of 3.",
        "the batch of 6 goes on as 6 micro-batches of 1.",
        "gradient_checkpointing is switched on.",
    ]
    again = linear(toy.config(tmp_path, batch_size=6, updates=3))
    assert again.task.network.checkpointing  # the checkpoint says so


def test_where_nothing_is_left_to_try_the_user_is_told(toy: ModuleType, tmp_path: Path) -> None:
    trainer = linear(toy.config(tmp_path, updates=2))
    trainer.task.network.checkpointed = 0
    with pytest.raises(InputError, match=r"too short for a micro-batch of 1 with gradient_checkpointing: .*adafactor"):
        trainer.run()


def test_fused_backward_has_no_smaller_micro_batches(toy: ModuleType, tmp_path: Path) -> None:
    trainer = linear(toy.config(tmp_path, updates=2, fused_backward=True))
    trainer.task.network.checkpointed = 4
    assert trainer.run() is True
    assert trainer.room.size == 4
    assert trainer.task.network.checkpointing


def test_memory_that_runs_out_amid_a_fused_backward_ends_the_run(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.config(tmp_path, fused_backward=True)
    trainer = short(toy, config, 2, ERRORS[0], when="backward")
    with pytest.raises(InputError, match=r"when fused_backward had updated part .* goes on from the last checkpoint"):
        trainer.run()


def test_memory_that_runs_out_for_the_optimizer_ends_the_run(toy: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    trainer = linear(toy.config(tmp_path, updates=2))
    trainer.task.network.limit = 4

    def start(weight: Tensor) -> dict[str, Tensor]:
        raise ERRORS[0]

    for name in trainer.optimizers["one"].rules:
        monkeypatch.setitem(trainer.optimizers["one"].rules, name, type("Large", (), {"start": staticmethod(start)})())
    with pytest.raises(InputError, match=r"for the optimizer's state: .*optimizer adafactor.* need less"):
        trainer.run()


def test_checkpointing_needs_a_network_that_can(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.config(tmp_path, gradient_checkpointing=True)
    with pytest.raises(InputError, match="gradient_checkpointing is for Stage B and C"):
        toy.run(config)
    assert linear(config).task.network.checkpointing
    assert not Room(toy.config(tmp_path), [nn.Linear(1, 1)]).modules
