"""Exporting a run's last checkpoint, against what the run itself exports when it is finished."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from littlecascade.checkpoint import files
from littlecascade.checkpoint.networks import ROLES
from littlecascade.errors import InputError
from littlecascade.presets import TINY
from littlecascade.training.run import export, train


def written(config: dict, task: str, folder: Path, **changes) -> Path:
    path = folder / f"{task}.yaml"
    path.write_text(yaml.safe_dump(config | {"output_path": str(folder / "runs")} | changes), "utf-8")
    return path


@pytest.mark.parametrize(("task", "name"), [("text", "model"), ("compressor", "effnet_encoder")])
def test_a_finished_run_is_exported_again_as_it_was(made_up, tmp_path, task, name):
    path = written(made_up[task], task, tmp_path, ema_iters=1, ema_start_iters=1)
    first = files.load(train(task, path) / f"{name}.safetensors")
    before = {tensor: values.clone() for tensor, values in first.items()}
    again = files.load(export(task, path) / f"{name}.safetensors")
    assert before.keys() == again.keys()
    assert all(torch.equal(before[tensor], again[tensor]) for tensor in before)


def test_a_run_that_goes_on_is_exported_without_touching_it(made_up, tmp_path):
    path = written(made_up["compressor"], "compressor", tmp_path)
    assert train("compressor", path, max_minutes=0) is None
    run = tmp_path / "runs" / "compressor"
    (run / "metrics.jsonl").write_text('{"step": 1, "seconds": 1.0}\n', "utf-8")  # later than the checkpoint
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    folder = export("compressor", path)
    assert {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()} == before
    network = ROLES["compressor"].network(TINY.compressor)
    assert files.load(folder / "effnet_encoder.safetensors").keys() == network.state_dict().keys()


def test_bfloat16_weights_are_exported_from_their_float32_averages(made_up, tmp_path):
    path = written(made_up["compressor"], "compressor", tmp_path, precision="bfloat16", updates=1)
    train("compressor", path)
    average = files.load(tmp_path / "runs" / "compressor" / "state.safetensors")
    stored = files.load(export("compressor", path) / "effnet_encoder.safetensors")
    for name, values in stored.items():
        if (own := average.get(f"ema.compressor.{name}")) is not None:
            assert torch.equal(values, own.half()), name


def test_without_a_checkpoint_there_is_nothing_to_export(made_up, tmp_path):
    with pytest.raises(InputError, match=r"no .*state\.safetensors"):
        export("text", written(made_up["text"], "text", tmp_path))
