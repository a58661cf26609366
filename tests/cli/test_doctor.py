"""`littlecascade doctor`, and what `train` says before it trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from littlecascade.cli.main import main
from littlecascade.cli.parser import duration

RUN = {
    "experiment_id": "x",
    "lr": 1e-3,
    "batch_size": 8,
    "updates": 10,
    "webdataset_path": "pictures",
    "image_size": 32,
}


@pytest.fixture
def config(here: Path) -> str:
    (here / "pictures").mkdir()
    Image.new("RGB", (40, 40)).save(here / "pictures" / "a.png")
    (here / "run.yaml").write_text(yaml.safe_dump(RUN), "utf-8")
    return "run.yaml"


def test_faults_of_a_configuration_set_the_exit_status(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    machine = json.loads(capsys.readouterr().out)
    assert main(["doctor", config, "--json", "--set", "webdataset_path=pictres", "--task", "compressor"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    added = report["lines"][len(machine["lines"]) :]
    assert [line["subject"] for line in added if line["level"] == "fix"] == ["webdataset_path"]
    assert set(added[0]) == {"level", "subject", "text", "remedy"}


def test_every_line_begins_with_its_level(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", config])
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if not line.startswith(" ")} <= {"ok", "note", "fix"}
    (told,) = [line for line in lines if "say which with --task" in line]
    assert told.startswith("fix   config")


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    config: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    assert main(["train", "compressor", config, "--dry-run", "--set", "grad_accum_steps=3", "--fit"]) == 0
    out, err = capsys.readouterr()
    assert err == "fitted: grad_accum_steps=4\n"
    assert "batch_size 8 = grad_accum_steps 4 x 2 at once" in out
    assert out.endswith("nothing in the way: without --dry-run it starts\n")
    assert main(["train", "compressor", config, "--dry-run", "--set", "webdataset_path=none"]) == 1
    assert capsys.readouterr().out.endswith("1 to fix before it can start\n")
    assert sorted(here.rglob("*")) == before


def test_training_without_its_data_is_one_error_of_the_user(
    config: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "c", config, "--set", "effnet_checkpoint_path=e.safetensors"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("littlecascade: Not all that this run needs is there:")
    assert str(here / "e.safetensors") in err
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("text", "minutes"), [("90m", 90), ("10h", 600), ("1.5h", 90), ("1h30m", 90), ("30s", 0.5), ("2d", 2880)]
)
def test_lengths_of_time(text: str, minutes: float) -> None:
    assert duration(text) == minutes


@pytest.mark.parametrize("text", ["90", "", "1h30", "h", "-1h", "0m", "1x", "1h x"])
def test_what_is_no_length_of_time(text: str, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "compressor", config, f"--for={text}"]) == 2
    assert "such as 90m, 10h or 1h30m" in capsys.readouterr().err


def test_time_is_given_once(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "compressor", config, "--for", "1h", "--max-minutes", "3"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err
