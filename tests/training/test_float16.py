"""Training in float16: the loss is scaled, and the residual stream of Stage B and C divided."""

from __future__ import annotations

import json
import math
import random
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from littlecascade.checkpoint import files
from littlecascade.memory import rescale
from littlecascade.memory.precision import DTYPES, cast
from littlecascade.models.stage_c import StageC
from littlecascade.nn.blocks import ResBlock
from littlecascade.training import run
from littlecascade.training.config import RunConfig
from littlecascade.training.draws import Draws
from littlecascade.training.feeds import IndexFeed
from littlecascade.training.loop import Trainer
from littlecascade.training.optim import scaling
from littlecascade.training.optim.optimizer import PhaseOptimizer
from littlecascade.training.optim.scaling import LossScale
from littlecascade.training.runstate import RunFolder
from littlecascade.training.task import Batch, Loss, Phase, Task


def test_the_scale_is_that_of_torchs_scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "PATIENCE", 5)
    own, chance = LossScale(used=True), random.Random(0)
    reference = torch.amp.GradScaler("cpu", init_scale=own.value, growth_interval=5)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    for _ in range(300):
        finite = chance.random() < 0.9
        parameter.grad = torch.ones(1) if finite else torch.full((1,), math.inf)
        reference.scale(torch.zeros(()))
        reference.step(optimizer)
        reference.update()
        if finite:
            own.succeed()
        else:
            assert own.absorb()
        assert own.value == reference.get_scale()


def test_a_scale_of_one_is_not_to_blame() -> None:
    scale = LossScale(used=True)
    assert [scale.absorb() for _ in range(18)] == [True] * 16 + [False] * 2
    assert (scale.value, scale.overflows) == (1, 16)
    assert LossScale(used=False).absorb() is False


def test_gradients_that_float16_would_lose_arrive() -> None:
    module = nn.Linear(1, 1, bias=False).half()
    values = {"experiment_id": "x", "lr": 0.1, "batch_size": 1, "updates": 9, "webdataset_path": "none"}
    optimizer = PhaseOptimizer({"weight": module.weight}, RunConfig(**values, precision="float16"))
    optimizer.begin(0, 1.0)
    optimizer.backward(module(torch.ones(1, 1).half()).float().sum() * 1e-9)
    assert torch.tensor(1e-9).half() == 0
    assert optimizer.step() == pytest.approx(1e-9, rel=1e-3)


def test_overflows_are_counted_apart_and_change_nothing(toy: ModuleType, tmp_path: Path) -> None:
    """A loss of 100 overflows at the first scale: 65,536 x 100 times the gradient."""
    config = toy.config(tmp_path, updates=6, precision="float16")
    RunFolder(config.folder).open({})
    task = toy.ToyTask(config)
    trainer = toy.Trainer(task, config, RunFolder(config.folder))
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    seen: list[bool] = []

    def spoil(call: int, loss: Tensor) -> Tensor:
        now = task.network.state_dict()
        seen.append(all(torch.equal(now[name], tensor) for name, tensor in before.items() if "weight" in name))
        return loss * 1000 if call < 5 else loss * math.nan if call == 5 else loss

    task.spoil = spoil
    trainer.run()
    scale = trainer.optimizers["one"].scale
    assert scale.overflows > 0
    assert scale.value == 2.0 ** (16 - scale.overflows)
    assert seen[: scale.overflows + 1] == [True] * (scale.overflows + 1)
    assert trainer.skipped == 1  # the loss that was not a number
    (row,) = trainer.folder.metrics()
    assert row["one_overflows"] > 0
    assert row["skipped"] < 1
    text = (config.folder / "metrics.jsonl").read_text()
    assert json.loads(text)["one_loss_scale"] < 2**16


class Regression(Task):
    """Stage C learns to predict what another one predicts. hot: its stream is beyond what float16 holds.

    The first `lost` losses are not finite.
    """

    def __init__(self, config: RunConfig, small_networks: ModuleType, *, hot: bool, lost: int = 0) -> None:
        self.lost = lost
        self.feed = IndexFeed([range(64)], config.micro_batch, config.seed)
        make = partial(StageC, small_networks.CONFIGS["stage_c"])
        self.teacher, network = make().requires_grad_(False), make()
        own, other = (small_networks.weights("stage_c", seed=seed) for seed in (0, 1))
        self.teacher.load_state_dict({name: own[name] + 0.3 * other[name] for name in own})
        network.load_state_dict(own)
        for block in network.modules() if hot else ():
            if isinstance(block, ResBlock) and not block.skip_width:
                block.get_parameter("channelwise.4.weight").data.mul_(1e5)
        self.network: StageC = cast(network, DTYPES[config.precision]).train().requires_grad_(True)
        self.phases = [Phase("c", {"stage_c": self.network})]

    def prepare(self, raw: Any, draws: Draws) -> Batch:
        return {"x": draws.normal(6, 4, 4), "text": draws.normal(3, 64), "time": draws.uniform()}

    def predict(self, network: StageC, batch: Batch) -> Tensor:
        return network(batch["x"], batch["time"], **network.encode_conditions(batch["text"])).float()

    def loss(self, phase: str, batch: Batch, draws: Draws, progress: float) -> Loss:
        spoilt = math.nan if draws.positions[0] < 4 * self.lost else 1.0
        error = self.predict(self.network, batch) - self.predict(self.teacher, batch)
        return Loss(error.square().mean() * spoilt)

    def preview(self) -> None:
        """There is nothing to look at."""

    def export(self, folder: Path) -> None:
        files.save(folder / "stage_c.safetensors", dict(self.network.state_dict()))


def train(folder: Path, small_networks: ModuleType, precision: str, **options: Any) -> Trainer:
    values = {"experiment_id": precision, "output_path": folder, "webdataset_path": "none", "precision": precision}
    values |= {"lr": 2e-3, "batch_size": 4, "updates": 30, "save_every": 30, "ema_beta": 0.5, "ema_iters": 1}
    config = RunConfig(**values, lr_schedule="cosine")
    RunFolder(config.folder).open({})
    trainer = Trainer(Regression(config, small_networks, **options), config, RunFolder(config.folder))
    assert trainer.run()
    return trainer


def loss_of(tensors: dict[str, Tensor], small_networks: ModuleType) -> float:
    """In float32, by a network that knows of no division."""
    config = RunConfig(experiment_id="x", lr=1.0, batch_size=1, updates=1, webdataset_path="", precision="float32")
    task = Regression(config, small_networks, hot=False)
    task.network.load_state_dict(tensors)
    rows = range(64)
    with torch.no_grad():
        return float(task.loss("c", task.prepare(rows, Draws(9, rows)), Draws(0, rows), 1.0).value)


@pytest.mark.parametrize("hot", [pytest.param(False, marks=pytest.mark.slow), True])
def test_it_reaches_the_loss_of_float32(tmp_path: Path, small_networks: ModuleType, hot: bool) -> None:
    """Of a run that loses as many updates to begin with as the search for the scale takes."""
    half = train(tmp_path, small_networks, "float16", hot=hot)
    lost = half.optimizers["c"].scale.overflows
    assert half.skipped == 0
    assert lost < 8
    exact = train(tmp_path, small_networks, "float32", hot=hot, lost=lost)
    reached, expected = (
        loss_of(files.load(trainer.folder.export_folder / "stage_c.safetensors"), small_networks)
        for trainer in (half, exact)
    )
    start = Regression(exact.config, small_networks, hot=hot).network.state_dict()
    assert expected < 0.6 * loss_of(start, small_networks)
    assert reached == pytest.approx(expected, rel=0.01)
    assert (rescale.stream_peak(exact.task.network) > torch.finfo(torch.float16).max) == hot


@pytest.mark.slow
def test_a_finetune_reaches_the_loss_of_float32(made_up: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Stage C of size `tiny`, on eight pictures; in float16 the search for the scale costs the first updates."""
    reached: dict[str, float] = {}
    for precision in ("float32", "float16"):
        own = {"precision": precision, "experiment_id": precision, "output_path": str(tmp_path), "image_size": 64}
        own |= {"lr": 3e-4, "lr_schedule": "cosine", "warmup_updates": 10, "batch_size": 4, "updates": 300}
        path = tmp_path / f"{precision}.yaml"
        path.write_text(yaml.safe_dump(made_up["c"] | own | {"save_every": 1000, "validation_prompts": []}), "utf-8")
        assert run.train("c", path) is not None
        rows = RunFolder(tmp_path / precision).metrics()
        losses = [row["loss"] for row in rows]
        reached[precision] = sum(losses[-10:]) / 10  # of the last 100 updates
        assert reached[precision] < 0.3 * losses[0]
        assert rows[-1]["skipped"] == 0
    assert reached["float16"] == pytest.approx(reached["float32"], rel=0.01)
