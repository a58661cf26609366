"""The doctor on this machine, and what it makes of configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from littlecascade.checkpoint import files, places
from littlecascade.checks import Line
from littlecascade.doctor.examine import examine_host, examine_run
from littlecascade.doctor.host import Host, Torch
from littlecascade.doctor.run import open_run
from littlecascade.errors import InputError
from littlecascade.training.kinds import kinds
from littlecascade.training.runstate import RunFolder

CONFIGS = Path(__file__).parents[2] / "configs" / "training"
TINY = places.packaged("tiny")
SHORT = {"experiment_id": "x", "lr": 1e-4, "batch_size": 8, "updates": 10, "webdataset_path": "data", "image_size": 32}


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights but the shipped ones, and a working folder without anything."""
    monkeypatch.setenv("LITTLECASCADE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def write(values: dict[str, Any]) -> Path:
    path = Path("run.yaml")
    path.write_text(yaml.safe_dump(values), "utf-8")
    return path


def of(lines: list[Line], subject: str) -> list[Line]:
    return [line for line in lines if line.subject == subject]


def test_this_machine_is_told_as_it_is() -> None:
    import torch

    host = Host.here()
    assert host.torch is not None
    assert (host.torch.version, host.torch.cuda) == (torch.__version__, torch.version.cuda)
    assert host.packages["torch"].startswith(host.torch.release)
    assert 0 < host.free_memory < host.memory
    lines = list(examine_host(host))
    assert {"python", "libraries", "gpu", "torch", "precision", "memory", "weights", "disk"} <= {
        line.subject for line in lines
    }
    weights = of(lines, "weights")
    assert [(line.level, line.text.partition(":")[0]) for line in weights] == [
        ("ok", "tiny"),
        ("note", "lite"),
        ("note", "full"),
    ]
    assert "models download lite" in weights[1].remedy
    if not host.cards:
        assert not torch.cuda.is_initialized()


def test_broken_torch_ends_what_needs_it(host: Callable[..., Host]) -> None:
    lines = list(examine_host(host(torch=Torch("2.13.0+cpu", fault="ImportError: no"))))
    assert of(lines, "torch")[0].level == "fix"
    assert of(lines, "weights") == []


@pytest.mark.parametrize(
    ("name", "kind"), [("finetune_c_1b", "c"), ("finetune_b_3b", "b"), ("finetune_c_3b_lora", "lora")]
)
def test_the_kind_is_told_by_the_keys(name: str, kind: str) -> None:
    assert open_run(CONFIGS / f"{name}.yaml").kind == kind


def test_a_file_that_may_be_of_several_kinds_has_to_say() -> None:
    path = write(SHORT)
    assert {kind for kind, error in kinds(path).items() if error is None} == {"a", "compressor"}
    with pytest.raises(InputError, match="may be for a or compressor: say which with --task"):
        open_run(path)
    assert open_run(path, "compressor").kind == "compressor"
    with pytest.raises(InputError, match=r"Unknown kind of training 'compresor'.*Did you mean 'compressor'"):
        open_run(path, "compresor")


def test_a_file_of_no_kind_is_explained_by_the_nearest() -> None:
    values = yaml.safe_load((CONFIGS / "finetune_c_1b.yaml").read_text("utf-8"))
    (line,) = examine_run(write(values | {"updtes": 3}))
    assert line.level == "fix"
    assert "unknown key 'updtes'. Did you mean 'updates'?" in line.text
    assert "read as c, which it fits best" in line.text


def test_a_run_is_told_with_its_faults() -> None:
    (Path("pictures")).mkdir()
    Image.new("RGB", (40, 40)).save("pictures/a.png")
    path = write(SHORT | {"webdataset_path": "pictures", "grad_accum_steps": 2, "use_fsdp": True})
    lines = list(examine_run(path, "compressor"))
    assert of(lines, "batch")[0].text == "batch_size 8 = grad_accum_steps 2 x 4 at once"
    assert [line.level for line in of(lines, "config")] == ["ok", "note"]
    assert "use_fsdp" in of(lines, "config")[1].text
    assert [line.level for line in lines if line.level == "fix"] == []
    lines = list(examine_run(path, "compressor", ["webdataset_path=pictres", "grad_accum_steps=3"]))
    assert [line.subject for line in lines] == ["config"]
    assert "the nearest that do: 6 and 9" in lines[0].text
    lines = list(examine_run(path, "compressor", ["webdataset_path=pictres"]))
    (fault,) = [line for line in lines if line.level == "fix"]
    assert (fault.subject, "Did you mean 'pictures'?" in fault.text) == ("webdataset_path", True)


def test_a_kind_that_can_not_be_trained_yet_is_only_read() -> None:
    line = next(iter(examine_run(CONFIGS / "controlnet_c_3b_canny.yaml")))
    assert (line.level, "can't train this kind" in line.text) == ("note", True)


def test_a_run_that_has_begun_says_whether_it_can_go_on() -> None:
    path = write(SHORT | {"precision": "float32"})
    folder = RunFolder(Path("runs/x"))
    folder.open({"image_size": 32, "precision": "float32"})
    import torch

    files.save(folder.state_path, {"ema.x": torch.zeros(1)}, {"step": "7", "skipped": "0"})
    (line,) = of(list(examine_run(path, "compressor")), "resume")
    assert (line.level, line.text) == ("ok", "goes on after update 7")
    (line,) = of(list(examine_run(path, "compressor", ["image_size=64"])), "resume")
    assert (line.level, "image_size was 32, is now 64" in line.text) == ("fix", True)
