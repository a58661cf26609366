"""What TensorBoard and Weights & Biases are given, read back from what they wrote."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from littlecascade.training import preflight, trackers
from littlecascade.training.runstate import RunFolder


def test_nothing_is_kept_for_others_unless_it_is_asked_for(toy: ModuleType, tmp_path: Path) -> None:
    toy.run(toy.config(tmp_path, updates=2, wandb_project="mine"))
    names = {"config.yaml", "metrics.jsonl", "report.html", "state.safetensors", "export"}
    assert {path.name for path in (tmp_path / "toy").iterdir()} == names | {"preview-000000.png", "preview-000002.png"}


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_package_that_is_missing_is_named_with_the_command(
    name: str, toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert list(preflight.extras(toy.config(tmp_path), tmp_path)) == []
    (line,) = preflight.extras(toy.config(tmp_path, **{name: True}), tmp_path)
    assert line.level == "fix"
    assert line.remedy == f"pip install 'littlecascade[{name}]', or set {name} to false."


class Killed(BaseException):
    """Nothing is done any more, as after kill -9."""


def test_tensorboard_has_each_update_of_a_run_that_was_killed_once(toy: ModuleType, tmp_path: Path) -> None:
    """Killed in update 13 with a checkpoint at 7: the row of update 10 comes anew."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = toy.config(tmp_path, updates=20, preview_every=20, tensorboard=True)
    folder = RunFolder(config.folder)
    folder.open({})
    task = toy.ToyTask(config)

    def spoil(call: int, loss: object) -> object:
        if call == 13:
            raise Killed
        return loss

    task.spoil = spoil
    task.preview = lambda: Image.new("RGB", (4, 2), (250, 0, 0))
    with pytest.raises(Killed):
        toy.Trainer(task, config, folder).run()
    assert [row["step"] for row in folder.metrics()] == [10]
    toy.run(config)
    events = EventAccumulator(str(config.folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    rows = folder.metrics()
    for name in ("one_loss", "lr", "pictures_per_second"):
        read = [(event.step, event.value) for event in events.Scalars(name)]
        assert read == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]
    assert [event.step for event in events.Images("preview")] == [0, 20]
    picture = Image.open(io.BytesIO(events.Images("preview")[0].encoded_image_string))
    assert (picture.size, picture.getpixel((0, 0))) == ((4, 2), (250, 0, 0))


def test_wandb_offline_writes_into_the_runs_folder_under_one_id(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for updates in (10, 20):
        toy.run(toy.config(tmp_path, updates=updates, wandb=True, wandb_project="mine"))
    folder = tmp_path / "toy"
    name = (folder / "wandb-id.txt").read_text("utf-8")
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    assert {path.name.rsplit("-", 1)[1] for path in runs} == {name}
    written = b"".join(path.read_bytes() for path in (folder / "wandb").glob("offline-run-*/*.wandb"))
    assert b"one_loss" in written
    assert b"mine" in written
