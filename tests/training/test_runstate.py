from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from littlecascade.checkpoint import files
from littlecascade.errors import InputError
from littlecascade.training.runstate import Checkpoint, RunFolder


def test_a_checkpoint_comes_back_and_later_metrics_go(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open({"lr": 1.0})
    assert folder.load() is None
    for step in (10, 20, 30):
        folder.log({"step": step, "loss": None})
    folder.save(Checkpoint(20, 3, {"x": torch.arange(3)}))
    assert len(folder.metrics()) == 3
    loaded = RunFolder(tmp_path / "run").load()
    assert loaded is not None
    assert (loaded.step, loaded.skipped, loaded.tensors["x"].tolist()) == (20, 3, [0, 1, 2])
    assert [row["step"] for row in folder.metrics()] == [10, 20]
    assert folder.config() == {"lr": 1.0}


def test_metrics_of_a_run_without_a_checkpoint_are_dropped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.log({"step": 10})
    assert folder.load() is None
    assert folder.metrics() == []


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.log({"step": 10})
    with folder.metrics_path.open("a") as handle:
        handle.write('{"step": 2')
    assert folder.metrics() == [{"step": 10}]


def test_a_folder_that_cannot_be_made_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't be written"):
        RunFolder(tmp_path / "file" / "run").open({})


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"config\.yaml"):
        RunFolder(tmp_path).config()
    assert RunFolder(tmp_path / "new").config() == {}


def test_a_run_killed_between_backup_and_checkpoint_comes_by_the_backup_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    folder.save(Checkpoint(9, 0, {"x": torch.tensor(9)}))
    whole = files.save

    def killed(path: Path, *rest: Any) -> None:
        whole(path, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.save(Checkpoint(10, 0, {"x": torch.tensor(10)}), backup=True)
    loaded = folder.load()
    assert loaded is not None
    assert (loaded.step, loaded.tensors["x"].item()) == (9, 9)
