from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from littlecascade.errors import InputError
from littlecascade.training.config import RunConfig, StageARun, StageBRun, StageCRun
from littlecascade.training.config_file import load_config, parse_config

MINIMAL = "experiment_id: x\nlr: 1.0e-3\nbatch_size: 8\nupdates: 10\nwebdataset_path: data\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, "utf-8")
    return path


def test_a_minimal_file(tmp_path: Path) -> None:
    config = load_config(RunConfig, write(tmp_path, MINIMAL))
    assert (config.lr, config.batch_size, config.micro_batch) == (0.001, 8, 8)
    assert config.folder == Path("runs/x")
    assert config.cache_folder == Path("runs/cache")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "warmup_update: 3\n", r"line 6: unknown key 'warmup_update'\. Did you mean 'warmup_updates'\?"),
        (MINIMAL + "seed: many\n", r"line 6: seed: .*integer.* \(got 'many'\)"),
        (MINIMAL + "precision: bfloat61\n", r"line 6: precision: .*'bfloat16'"),
        (MINIMAL + "grad_accum_steps: 0\n", r"line 6: grad_accum_steps: .*greater than 0"),
        (MINIMAL.replace("lr: 1.0e-3\n", ""), r"'lr' is missing"),
        ("- a\n- b\n", r"holds a list; a run configuration is `key: value` lines"),
        ("just text\n", r"holds a str"),
        ("", r"'lr' is missing"),
        ("a: [1\nb: 2\n", r"is not valid YAML.*line 2"),
        (MINIMAL + "1: 2\n", r"can't be used"),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"(?s)run\.yaml .*{said}"):
        load_config(RunConfig, write(tmp_path, text))


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_config(RunConfig, write(tmp_path, "batch_size: -1\nnonsense: 1\nlr: 0\nexperiment_id: x\n"))
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 5  # three of the file's keys, and `updates` and `webdataset_path` are missing


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Can't read the configuration .*none\.yaml"):
        load_config(RunConfig, tmp_path / "none.yaml")


def test_a_batch_that_does_not_divide_names_the_nearest_that_do(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    with pytest.raises(InputError, match=r"batch_size 8 .*grad_accum_steps 3 .*: 6 and 9\."):
        load_config(RunConfig, path, ["grad_accum_steps=3"])
    with pytest.raises(InputError, match=r"batch_size 2 .*: 3\."):
        load_config(RunConfig, path, ["grad_accum_steps=3", "batch_size=2"])
    assert load_config(RunConfig, path, ["grad_accum_steps=4"]).micro_batch == 2


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    config = load_config(RunConfig, path, ["lr=3e-4", "webdataset_path=[a, b]", "betas=[0.8, 0.9]", "cache_path=c=d"])
    assert (config.lr, config.webdataset_path, config.betas) == (3e-4, ["a", "b"], (0.8, 0.9))
    assert config.cache_path == Path("c=d")
    with pytest.raises(InputError, match=r"--set 'lr': expected key=value"):
        load_config(RunConfig, path, ["lr"])
    with pytest.raises(InputError, match=r"--set 'lr=\[' is not valid YAML"):
        load_config(RunConfig, path, ["lr=["])
    with pytest.raises(InputError, match=r"unknown key 'lrr'\. Did you mean 'lr'\?"):
        load_config(RunConfig, path, ["lrr=1"])


def test_paths_are_looked_for_beside_the_configuration_first(tmp_path: Path) -> None:
    (tmp_path / "beside.tar").touch()
    (tmp_path / "part-0.tar").touch()
    text = MINIMAL.replace("webdataset_path: data", "webdataset_path: [beside.tar, 'file:part-*.tar', elsewhere.tar]")
    text += "stage_a_checkpoint_path: beside.tar\ncache_path: nowhere\n"
    config = load_config(StageARun, write(tmp_path, text))
    assert config.webdataset_path == [str(tmp_path / "beside.tar"), str(tmp_path / "part-*.tar"), "elsewhere.tar"]
    assert config.stage_a_checkpoint_path == tmp_path / "beside.tar"
    assert config.cache_path == Path("nowhere")


def test_a_crop_fits_into_the_picture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="crop 64 is larger than image_size 32"):
        load_config(StageARun, write(tmp_path, MINIMAL), ["crop=64", "image_size=32"])


@pytest.mark.parametrize("kind", [StageARun, StageBRun, StageCRun])
def test_fixed_keys_exist(kind: type[RunConfig]) -> None:
    assert kind.fixed <= kind.model_fields.keys()


def test_values_without_a_file() -> None:
    values: dict[str, Any] = {"experiment_id": "x", "lr": 1, "batch_size": 1, "updates": 1, "webdataset_path": "d"}
    assert parse_config(RunConfig, values).lr == 1.0
    with pytest.raises(InputError, match="configuration can't be used"):
        parse_config(RunConfig, {})
