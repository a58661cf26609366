from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from littlecascade.adapters.files import Adapter
from littlecascade.checkpoint import files
from littlecascade.checkpoint.networks import load_network
from littlecascade.checkpoint.recognise import recognise
from littlecascade.conditioning.image import ImageEncoder
from littlecascade.conditioning.text import TextEncoder
from littlecascade.errors import InputError
from littlecascade.training.config_file import parse_config
from littlecascade.training.draws import Draws
from littlecascade.training.run import TASKS, train
from littlecascade.training.tasks.common import keep
from littlecascade.training.tasks.stage_a import gradient_difference

Runner = Callable[..., Path | None]

LOADERS: dict[str, Callable[[Path], Any]] = {
    "a": lambda folder: load_network("stage_a", folder / "stage_a.safetensors"),
    "b": lambda folder: load_network("stage_b", folder / "stage_b.safetensors"),
    "c": lambda folder: load_network("stage_c", folder / "stage_c.safetensors"),
    "compressor": lambda folder: load_network("compressor", folder / "effnet_encoder.safetensors"),
    "text": TextEncoder.load,
    "image": ImageEncoder.load,
    "lora": lambda folder: Adapter.load(folder / "whole.safetensors"),
    "lora_b": lambda folder: Adapter.load(folder / "whole.safetensors"),
}


@pytest.fixture
def run(made_up: dict[str, dict[str, Any]], tmp_path: Path) -> Runner:
    """`run(task, name, **settings)` trains a task into tmp_path/name, or goes on with it."""

    def start(task: str, name: str, max_minutes: float | None = None, **settings: Any) -> Path | None:
        values = made_up[task] | {"output_path": str(tmp_path), "experiment_id": name} | settings
        values |= {"cache_path": str(Path(made_up[task]["output_path"]) / "cache")}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values), "utf-8")
        return train(task, path, max_minutes=max_minutes)

    return start


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_goes_on_shows_and_exports(task: str, run: Runner, tmp_path: Path) -> None:
    assert run(task, "whole", updates=3) == tmp_path / "whole" / "export"
    assert run(task, "parts", updates=3, max_minutes=0.0) is None
    run(task, "parts", updates=3, save_every=1, preview_every=2)
    whole, parts = (files.load(tmp_path / name / "state.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    losses = [value for name, value in rows(tmp_path / "whole")[-1].items() if name.endswith("loss")]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
    assert (tmp_path / "whole" / "report.html").is_file()
    if task not in ("text", "image"):
        with Image.open(tmp_path / "whole" / "preview-000003.png") as picture:
            assert picture.width >= picture.height
    LOADERS[task](tmp_path / "whole" / "export")


@pytest.mark.slow
def test_half_precision_trains_and_exports_the_whole_averages(run: Runner, tmp_path: Path) -> None:
    folder = run("c", "bf16", precision="bfloat16", updates=2)
    assert folder is not None
    state, exported = files.load(tmp_path / "bf16" / "state.safetensors"), files.load(folder / "stage_c.safetensors")
    assert all(torch.equal(tensor, state[f"ema.stage_c.{name}"].half()) for name, tensor in exported.items())
    (part,) = recognise(folder / "stage_c.safetensors")
    assert part.notes == {"target": "v", "shift": "1.0"}


@pytest.mark.slow
def test_four_micro_batches_of_one_are_one_of_four(run: Runner, tmp_path: Path) -> None:
    run("c", "whole", updates=2, grad_accum_steps=1)
    run("c", "split", updates=2, grad_accum_steps=4)
    one, other = (files.load(tmp_path / name / "state.safetensors") for name in ("whole", "split"))
    moments = [name for name in one if ".exp_avg." in name]  # weights would hide errors: Adam's steps have one size
    assert moments
    for name in moments:
        assert torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-5 * float(one[name].abs().max() + 1e-3)), name


@pytest.mark.slow
def test_training_from_a_checkpoint_takes_its_weights_and_the_runs_dropout(run: Runner, made_up) -> None:
    first = run("c", "first", updates=1)
    assert first is not None
    settings = made_up["c"] | {"generator_checkpoint_path": str(first / "stage_c.safetensors"), "dropout": 0.25}
    task = TASKS["c"].build(parse_config(TASKS["c"].config, settings))
    expected = files.load(first / "stage_c.safetensors")
    (network,) = task.phases[0].modules.values()
    assert all(torch.equal(tensor, expected[name].float()) for name, tensor in network.state_dict().items())
    assert network.config.trunk.dropout == (0.25, 0.25)


@pytest.mark.slow
def test_stage_c_learns_from_pictures_alone_too(run: Runner, made_up) -> None:
    task = TASKS["c"].build(parse_config(TASKS["c"].config, made_up["c"] | {"image_share": 0.6, "image_alone": 0.5}))
    batch = task.prepare([0] * 400, Draws(0, range(400)))
    empty = task.data.embed([""]).hidden[0]
    shown = batch["image"].flatten(1).any(1)
    silent = (batch["text"] == empty).flatten(1).all(1)
    assert 0.5 < shown.float().mean() < 0.7
    assert 0.4 < silent[shown].float().mean() < 0.65
    assert silent[~shown].float().mean() < 0.15  # text_dropout's share


@pytest.mark.slow
def test_noise_on_captions_is_as_strong_as_asked_and_never_on_the_empty_one(made_up) -> None:
    settings = made_up["c"] | {"image_share": 0.0, "text_dropout": 0.2}
    tasks = [TASKS["c"].build(parse_config(TASKS["c"].config, settings | {"text_noise": noise})) for noise in (0, 2)]
    clean, noisy = (task.prepare([0] * 400, Draws(0, range(400))) for task in tasks)
    silent = (clean["text"] == tasks[0].data.embed([""]).hidden).flatten(1).all(1)
    assert 0.1 < silent.float().mean() < 0.3
    for name in ("text", "pooled"):
        strength = (noisy[name] - clean[name]).square().mean((1, 2)).sqrt() / clean[name].std((1, 2))
        assert strength[silent].max() == 0
        assert 0.4 < (strength[~silent] > 0).float().mean() < 0.6
        assert strength.max() < 2.2  # 2, but for the noise's own deviation
        assert strength[strength > 0].mean() == pytest.approx(1.0, abs=0.15)


@pytest.mark.slow
def test_a_decoder_trained_alone_keeps_the_latents(run: Runner, made_up, tmp_path: Path) -> None:
    settings = {"adversarial_weight": 0.0, "ema_start_iters": 2}
    first = run("a", "first", updates=2, **settings)
    assert first is not None
    settings |= {"decoder_only": True, "stage_a_checkpoint_path": str(first / "stage_a.safetensors")}
    second = run("a", "second", updates=2, **settings)
    assert second is not None
    before, after = (load_network("stage_a", folder / "stage_a.safetensors") for folder in (first, second))
    assert before.config == after.config
    changed = {
        name.split(".")[0]
        for name, tensor in before.state_dict().items()
        if not torch.equal(tensor, after.state_dict()[name])
    }
    assert changed == {"up_blocks", "out_block"}
    with pytest.raises(InputError, match="name it as stage_a_checkpoint_path"):
        run("a", "third", decoder_only=True)


@pytest.mark.slow
def test_a_run_keeps_its_network_and_data_and_may_change_the_rest(run: Runner, tmp_path: Path) -> None:
    run("compressor", "x", updates=1)
    with pytest.raises(InputError, match=r"can't go on .*seed was 0, is now 1.* experiment_id"):
        run("compressor", "x", updates=2, seed=1)
    run("compressor", "x", updates=2, lr=1e-4, save_every=1, l1_weight=0.5)
    assert files.metadata(tmp_path / "x" / "state.safetensors")["step"] == "2"


@pytest.mark.slow
def test_the_precision_auto_is_measured_once(run: Runner, tmp_path: Path, monkeypatch) -> None:
    from littlecascade.memory import precision

    times = {torch.bfloat16: 1.0, torch.float32: 2.0}
    monkeypatch.setattr(precision, "_matmul_time", times.get)
    run("compressor", "x", updates=1, precision="auto")
    times[torch.bfloat16] = 3.0
    run("compressor", "x", updates=2, precision="auto")
    assert yaml.safe_load((tmp_path / "x" / "config.yaml").read_text())["precision"] == "bfloat16"


@pytest.mark.slow
def test_broken_pictures_are_counted_named_and_told(run: Runner, made_up, tmp_path: Path, capsys) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "<b>.png").write_bytes(b"broken")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "data" / "good.png")
    run("compressor", "x", updates=1, webdataset_path=str(tmp_path / "data"))
    assert "1 samples are left out, the first: <b>.png: it can't be decoded" in capsys.readouterr().err
    assert "<h2>1 left out of the data</h2><ul><li>&lt;b&gt;.png" in (tmp_path / "x" / "report.html").read_text()


def test_an_unknown_task_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'compresor'; .* Did you mean 'compressor'\?"):
        train("compresor", tmp_path / "none.yaml")


def test_an_image_tower_that_its_text_tower_cannot_teach(run: Runner) -> None:
    """Of the official ones, CLIP ViT-L gives 768 features and CLIP bigG 1,280."""
    with pytest.raises(InputError, match="it gives 768 features and the text tower that teaches it 1280"):
        run("image", "large", model_version="lite")


def test_a_teacher_without_texts_or_with_too_few(run: Runner, made_up, tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    files.save(path, {"embeddings": torch.zeros(3, 384)})
    with pytest.raises(InputError, match=r"looked for .*texts\.txt"):
        run("text", "x", teacher_path=str(path))
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    with pytest.raises(InputError, match="3 embeddings for 2 texts"):
        run("text", "x", teacher_path=str(path))
    files.save(path, {"vectors": torch.zeros(3, 384)})
    with pytest.raises(InputError, match="holds no `embeddings`, but vectors"):
        run("text", "x", teacher_path=str(path))


def test_gradient_difference_by_hand() -> None:
    edge, blurred = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 0.5, 1.0, 1.0])
    one, other = (row.expand(2, 3, 5, 4) for row in (edge, blurred))
    # steps along the rows: 0, 1, 0 beside 0.5, 0.5, 0; none along the columns
    assert float(gradient_difference(one, other)) == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert float(gradient_difference(one.transpose(-1, -2), other.transpose(-1, -2))) == pytest.approx(1 / 3)
    assert float(gradient_difference(one, 1 - one)) == 0  # its sign does not count, which the pixels' own loss sees


def test_keep() -> None:
    values = torch.tensor([[1.0, math.nan], [3.0, 4.0]])
    assert keep(values, torch.tensor([False, True])).tolist() == [[0, 0], [3, 4]]
