from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from littlecascade.checkpoint import files
from littlecascade.checkpoint.networks import load_network
from littlecascade.conditioning.text import TextEncoder
from littlecascade.data.batches import PictureBatch
from littlecascade.errors import InputError
from littlecascade.training import encoders
from littlecascade.training.config import StageBRun, StageCRun
from littlecascade.training.config_file import parse_config
from littlecascade.training.data import CachedData, open_data
from littlecascade.training.draws import Draws
from littlecascade.training.processes import Share
from littlecascade.training.run import cache, train

CPU = torch.device("cpu")
SHAPES = [(64, 64), (96, 48), (48, 96)]
Values = dict[str, Any]


def write_shards(folder: Path, shards: int = 2, count: int = 9) -> None:
    """Pictures of three shapes, each of one colour that its number decides, with a caption and a json."""
    folder.mkdir()
    for shard in range(shards):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for number in range(shard * count, (shard + 1) * count):
                buffer = BytesIO()
                width, height = SHAPES[number % 3]
                Image.new("RGB", (width, height), (number * 10, 0, 0)).save(buffer, "png")
                fields = json.dumps({"number": number, "width": width}).encode()
                for suffix, content in {"png": buffer.getvalue(), "txt": b"a red square", "json": fields}.items():
                    info = tarfile.TarInfo(f"{number:03}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, BytesIO(content))


@pytest.fixture
def values(made_up: dict[str, Values], tmp_path: Path) -> Values:
    """A Stage C run over pictures of several shapes, in buckets."""
    write_shards(tmp_path / "data")
    own = {
        "output_path": str(tmp_path / "runs"),
        "webdataset_path": str(tmp_path / "data"),
        "image_size": 64,
        "multi_aspect_ratio": ["1/1", "2/1"],
        "bucketeer_random_ratio": 0.0,
        "batch_size": 2,
        "workers": 0,
    }
    return made_up["c"] | own


def numbers(batch: PictureBatch) -> list[int]:
    return [fields["number"] for fields in batch.fields]


def test_cached_batches_hold_what_the_networks_make_of_the_pictures(values: Values) -> None:
    config = parse_config(StageCRun, values)
    data = open_data(config, CPU)
    compressor = load_network("compressor", config.effnet_checkpoint_path, dtype=torch.float32)
    sizes = Counter()
    for number in range(8):
        raw = data.feed.take(number)
        pictures, columns = data.pictures(raw), data.columns(raw)
        sizes[tuple(pictures.shape)] += 1
        with torch.no_grad():
            expected = compressor(pictures)
        assert torch.allclose(columns["semantic"], expected, atol=2e-3 * float(expected.abs().max()))
    assert set(sizes) == {(2, 3, 64, 64), (2, 3, 32, 64), (2, 3, 64, 32)}
    text = TextEncoder.load(config.text_path, torch.float32).encode(["a red square"], chunks=1)
    assert torch.allclose(data.embed(["a red square"]).hidden, text.hidden, atol=2e-3)
    assert data.captions(raw, Draws(0, [0, 1])) == ["a red square"] * 2


def test_captions_are_drawn_from_the_alternatives(made_up: dict[str, Values], tmp_path: Path) -> None:
    data = open_data(parse_config(StageCRun, made_up["c"] | {"cache_path": str(tmp_path)}), CPU)
    drawn = Counter(data.captions([0] * 400, Draws(0, range(400))))
    assert set(drawn) == {"a red square", "something red"}
    assert 160 < drawn["something red"] < 240


def test_a_sweep_encodes_the_same_as_a_cache(values: Values) -> None:
    cached = open_data(parse_config(StageCRun, values), CPU)
    swept = open_data(parse_config(StageCRun, values | {"cache": False}), CPU)
    assert isinstance(cached, CachedData)
    by_number = {row.fields["number"]: at for at, row in enumerate(cached.cache.rows)}
    for number in range(6):
        batch = swept.feed.take(number)
        rows = [by_number[one] for one in numbers(batch)]
        # each picture has one colour, so that it does not matter that a sweep crops at random
        assert torch.equal(swept.pictures(batch), cached.pictures(rows))
        one, other = swept.columns(batch)["semantic"], cached.columns(rows)["semantic"]
        assert torch.allclose(one, other, atol=2e-3 * float(one.abs().max()))
    assert torch.allclose(swept.embed(["a red square"]).pooled, cached.embed(["a red square"]).pooled, atol=2e-3)


@pytest.mark.parametrize("extra", [{}, {"cache": False}])
def test_filters_hold_however_the_data_are_read(values: Values, extra: Values) -> None:
    settings = values | extra | {"dataset_filters": [["width", "lambda w: w >= 64"], "number < 12"]}
    data = open_data(parse_config(StageCRun, settings), CPU)
    seen: set[int] = set()
    for number in range(30):
        raw = data.feed.take(number)
        seen |= set(
            numbers(raw) if isinstance(raw, PictureBatch) else (data.cache.rows[at].fields["number"] for at in raw)
        )
    assert seen == {number for number in range(12) if number % 3 != 2}


@pytest.mark.parametrize("key", ["dataset_filters", "captions_getter"])
def test_official_keys_that_can_not_be_understood_are_refused_before_anything_is_read(values: Values, key: str) -> None:
    wrong = {"dataset_filters": ["width", "lambda w: open(w)"], "captions_getter": ["txt", "identty"]}
    with pytest.raises(InputError, match=key):
        open_data(parse_config(StageCRun, values | {key: wrong[key]}), CPU)


@pytest.fixture
def run(values: Values, tmp_path: Path) -> Callable[..., dict[str, torch.Tensor]]:
    """`run(name, **settings)` trains Stage C, or goes on, and gives back all that its last checkpoint holds."""

    def start(name: str, max_minutes: float | None = None, **settings: Any) -> dict[str, torch.Tensor]:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values | {"experiment_id": name} | settings), "utf-8")
        train("c", path, max_minutes=max_minutes)
        return files.load(tmp_path / "runs" / name / "state.safetensors")

    return start


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"cache": False}, {"cache": False, "workers": 2, "grad_accum_steps": 2}])
def test_a_run_that_was_stopped_reads_on_where_it_was(run: Callable[..., Any], settings: Values) -> None:
    settings = settings | {"batch_size": 4, "updates": 6, "save_every": 2}
    whole = run("whole", **settings)
    for stop in (2, 4):
        run("parts", **settings | {"updates": stop})
    parts = run("parts", **settings)
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


@pytest.mark.slow
def test_a_run_keeps_the_way_its_data_are_read(run: Callable[..., Any]) -> None:
    run("x", updates=1)
    with pytest.raises(InputError, match=r"cache was True, is now False.* experiment_id"):
        run("x", updates=2, cache=False)


@pytest.mark.slow
def test_stage_b_trains_in_buckets(made_up: dict[str, Values], values: Values, tmp_path: Path) -> None:
    shared = ("output_path", "webdataset_path", "image_size", "multi_aspect_ratio", "batch_size")
    settings = made_up["b"] | {key: values[key] for key in shared} | {"updates": 6}
    path = tmp_path / "b.yaml"
    path.write_text(yaml.safe_dump(settings), "utf-8")
    assert train("b", path) is not None
    rows = [json.loads(line) for line in (tmp_path / "runs" / "b" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_a_cache_made_ahead_in_shares_is_all_that_a_run_needs(values: Values, tmp_path: Path, monkeypatch) -> None:
    from littlecascade.data import table

    monkeypatch.setattr(table, "PART", 4)
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    shares = [cache("c", path, [], Share(rank, 2)) for rank in (0, 1)]
    assert [share.made for share in shares] == [3, 2]
    assert cache("c", path, [], Share()).made == 0

    def refuse(*arguments: object) -> None:
        raise AssertionError("an encoder was loaded")

    monkeypatch.setattr(encoders, "load_network", refuse)
    monkeypatch.setattr(encoders.TextEncoder, "load", refuse)
    monkeypatch.setattr(encoders.ImageEncoder, "load", refuse)
    data = open_data(parse_config(StageCRun, values), CPU)
    assert data.columns(data.feed.take(0)).keys() == {"semantic", "image"}


def test_another_network_is_another_cache(values: Values, tmp_path: Path) -> None:
    config = parse_config(StageCRun, values)
    before = open_data(config, CPU).columns([0])["semantic"]
    tensors = files.load(config.effnet_checkpoint_path)
    other = tmp_path / config.effnet_checkpoint_path.name
    files.save(
        other, {name: tensor * 1.5 for name, tensor in tensors.items()}, files.metadata(config.effnet_checkpoint_path)
    )
    after = open_data(parse_config(StageCRun, values | {"effnet_checkpoint_path": str(other)}), CPU).columns([0])[
        "semantic"
    ]
    assert not torch.allclose(before, after)
    assert len(list((tmp_path / "runs" / "cache").glob("semantic-*"))) == 2
    assert len(list((tmp_path / "runs" / "cache").glob("image-*"))) == 1


def test_stage_b_and_stage_c_share_what_both_need(values: Values, made_up: dict[str, Values], tmp_path: Path) -> None:
    open_data(parse_config(StageCRun, values), CPU)
    names = ("output_path", "webdataset_path", "image_size", "multi_aspect_ratio", "bucketeer_random_ratio")
    shared = {key: values[key] for key in names}
    data = open_data(parse_config(StageBRun, made_up["b"] | shared | {"batch_size": 2}), CPU)
    assert data.columns(data.feed.take(0)).keys() == {
        *("semantic", "semantic-0.875", "semantic-0.75", "semantic-0.625", "semantic-0.5", "stage_a")
    }
    folders = Counter(path.name.split("-")[0] for path in (tmp_path / "runs" / "cache").iterdir())
    assert folders == {"rows": 1, "semantic": 5, "image": 1, "stage_a": 1, "texts": 1}


def test_the_command_makes_a_share_and_says_where(values: Values, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if key != "webdataset_path"}), "utf-8")
    words = [sys.executable, "-m", "littlecascade", "data", "cache", values["webdataset_path"], str(path)]
    done = subprocess.run([*words, "--share", "1/1"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'runs' / 'cache'}: 18 samples, 1 parts were missing and are made\n"
    wrong = subprocess.run([*words, "--share", "3/2"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "'3/2' is no share: write the second of eight as 2/8." in wrong.stderr


ARRAY = {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "2"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, (3, 8)),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, (2, 4)),
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1)),  # the job's own script
        ({"SLURM_NTASKS": "4"}, (0, 1)),  # a shell inside an allocation
        ({**ARRAY, "SLURM_ARRAY_TASK_COUNT": "5"}, (2, 5)),
        (
            {**ARRAY, "SLURM_ARRAY_TASK_COUNT": "5", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
            (5, 10),
        ),
    ],
)
def test_processes_are_told_apart_as_torchrun_and_slurm_start_them(environment, expected) -> None:
    assert Share.of(environment) == expected


def test_variables_that_make_no_sense_are_named() -> None:
    with pytest.raises(InputError, match="'x'"):
        Share.of({"RANK": "x", "WORLD_SIZE": "2"})
