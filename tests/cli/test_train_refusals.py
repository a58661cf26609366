"""What `littlecascade train` says to what it can't use: one error, before anything is made or loaded."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from littlecascade.checkpoint import assign, files, places
from littlecascade.cli.main import main
from littlecascade.training.runstate import Checkpoint, RunFolder

TINY = places.packaged("tiny")
LORA = {
    "experiment_id": "x",
    "lr": 1e-3,
    "batch_size": 2,
    "updates": 10,
    "rank": 4,
    "webdataset_path": "pictures",
    "image_size": 32,
    "effnet_checkpoint_path": "effnet_encoder.safetensors",
    "generator_checkpoint_path": "stage_c.safetensors",
}

Say = Callable[..., str]


@pytest.fixture(autouse=True)
def pictures(here: Path) -> Path:
    folder = here / "pictures"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (40, 40)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a black square\n", "utf-8")
    return folder


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Say]:
    """The one error that training ends with; no weights are read for it, and no run's folder is made."""

    def forbid(*arguments: object, **options: object) -> None:
        raise AssertionError("weights were loaded")

    def say(*line: str, kind: str = "lora", **values: Any) -> str:
        text = yaml.safe_dump({key: value for key, value in (LORA | values).items() if value != "left out"})
        (here / "run.yaml").write_text(text, "utf-8")
        start, before = time.perf_counter(), sorted(here.rglob("*"))
        assert main(["train", kind, "run.yaml", *line]) == 2
        assert time.perf_counter() - start < 5
        assert sorted(here.rglob("*")) == before
        return capsys.readouterr().err

    with monkeypatch.context() as patch:
        patch.setattr(assign, "materialise", forbid)
        patch.setattr(files, "load", forbid)
        yield say


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"webdataset_path": "pictres"}, r"No data at 'pictres'.*Did you mean 'pictures'\?"),
        (
            {"effnet_checkpoint_path": "pictures/ef.safetensors"},
            r"there is no .*ef\.safetensors: looked for",
        ),
        ({"effnet_checkpoint_path": str(TINY / "stage_a.safetensors")}, r"is stage_a \(tiny\), not compressor"),
        ({"text_path": "nowhere"}, r"text_path: there is no nowhere: looked for"),
        ({"rnak": 3}, r"line \d+: unknown key 'rnak'\. Did you mean 'rank'\?"),
        ({"caption_dropout": 0.1}, r"unknown key 'caption_dropout'\. Here it is called 'text_dropout'"),
        ({"learning_rate": 0.1}, r"unknown key 'learning_rate'\. Here it is called 'lr'"),
        ({"batch_size": "many"}, r"line \d+: batch_size: .*valid integer.*\(got 'many'\)"),
        ({"rank": 0}, r"line \d+: rank: .*greater than 0 \(got 0\)"),
        ({"dataset_filters": [["width", "lambda w: __import__('os').remove('a')"]]}, r"dataset_filters: "),
        ({"dataset_filters": ["open('a')"]}, r"dataset_filters: .*"),
        ({"captions_getter": ["json", "__import__('os')"]}, r"captions_getter: "),
        (
            {"module_filters": [".atn"]},
            r"Filter '\.atn' is in the name of no module .*there are .*attn",
        ),
        ({"module_filters": ["re:^nothing$"]}, r"Filter 're:\^nothing\$' is in the name of no module"),
        ({"module_filters": ["re:("]}, r"'re:\(' is no regular expression"),
        ({"train_tokens": [["[x]", "^zebr[^a]"]]}, r"train_tokens: No token .* matches '\^zebr\[\^a\]'\. There are "),
        ({"train_tokens": [["^robot</w>", None]], "lora_type": "loha"}, r"no place|has none for lora_type loha"),
        ({"tensorboard": True}, r"needs the package tensorboard.*pip install 'littlecascade\[tensorboard\]'"),
        ({"wandb": True}, r"needs the package wandb.*pip install 'littlecascade\[wandb\]'"),
        ({"max_hours": 0}, r"max_hours: .*greater than 0"),
    ],
)
def test_a_configuration_that_can_not_be_used(
    refused: Say, values: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("littlecascade.training.trackers.find_spec", lambda name: None)
    assert re.search(f"(?s){said}", refused(**values))


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("lora", {"rank": "left out"}, "run.yaml is a configuration for c: 'littlecascade train c run.yaml' reads it."),
        ("c", {}, "run.yaml is a configuration for lora: 'littlecascade train lora run.yaml' reads it. For c, "),
        ("b", {}, "is a configuration for lora"),
        ("lroa", {}, "Unknown kind of training 'lroa'; "),
    ],
)
def test_a_configuration_of_another_kind_is_told_its_kind(
    refused: Say, kind: str, values: dict[str, Any], said: str
) -> None:
    assert said in refused(kind=kind, **values)


def test_pictures_without_captions_need_a_word_for_them(refused: Say, pictures: Path) -> None:
    for path in pictures.glob("*.txt"):
        path.unlink()
    said = refused()
    assert "3 pictures (a.png, b.png, c.png), none of them with a caption" in said
    assert "default_caption: ''" in said


def test_captions_without_pictures_are_named(refused: Say, pictures: Path) -> None:
    for path in pictures.glob("*.png"):
        path.unlink()
    assert "3 captions (a.txt, b.txt, c.txt) and no picture among the first files of" in refused()


def test_pictures_that_do_not_open_are_named(refused: Say, pictures: Path) -> None:
    for path in pictures.glob("*.png"):
        path.write_bytes(b"no picture")
    assert "a.png can't be decoded" in refused()


def test_a_run_that_changed_is_told_what_did(refused: Say, here: Path) -> None:
    folder = RunFolder(here / "runs" / "x")
    folder.open({"rank": 8, "module_filters": [".attn"]})
    folder.save(Checkpoint(3, 0, {}))
    said = refused()
    assert "rank was 8, is now 4" in said
    assert "--restart, which moves this run aside" in said


def test_restart_moves_a_run_aside_once_all_else_is_right(refused: Say, here: Path) -> None:
    folder = RunFolder(here / "runs" / "x")
    folder.open({"rank": 8})
    folder.save(Checkpoint(3, 0, {}))
    assert "Filter 'none' is in" in refused("--restart", module_filters=["none"])
    assert folder.set_aside() == here / "runs" / "x-before-1"
    assert folder.set_aside() is None
    folder.open({})
    assert folder.set_aside() == here / "runs" / "x-before-2"
    assert (here / "runs" / "x-before-1" / "state.safetensors").is_file()


def test_little_data_is_remarked_and_no_error(here: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.png", "b.txt", "c.png"):
        (pictures / name).unlink()
    (here / "run.yaml").write_text(yaml.safe_dump(LORA), "utf-8")
    assert main(["train", "lora", "run.yaml", "--dry-run"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "a single picture, which is all that can be learnt" in told
    assert "1 caption (c.txt) with no picture of that name, left out" in told
    assert "module_filters" in told
