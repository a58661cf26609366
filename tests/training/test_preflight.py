"""What is told of a run before anything is loaded, with the shipped weights as the files that a run names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from littlecascade.checkpoint import places
from littlecascade.errors import InputError
from littlecascade.training import preflight, preflight_data
from littlecascade.training.config import RunConfig, StageBRun, StageCRun
from littlecascade.training.config_file import load_config
from littlecascade.training.run import train

TINY = places.packaged("tiny")
OWN = Path("own")


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights but the shipped ones; the working folder is `work`, the configuration lies in `configs`."""
    monkeypatch.setenv("LITTLECASCADE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("work", "configs"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two pictures with captions."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (40, 30), "red").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a red field\n", "utf-8")
    return folder


def load(tmp_path: Path, cls: type[RunConfig] = StageCRun, **values: Any) -> tuple[RunConfig, Path]:
    base = {
        "experiment_id": "x",
        "lr": 1e-4,
        "batch_size": 2,
        "updates": 1,
        "webdataset_path": "nothing",
        "image_size": 32,
        "effnet_checkpoint_path": str(TINY / "effnet_encoder.safetensors"),
    }
    path = tmp_path / "configs" / "run.yaml"
    path.write_text(yaml.safe_dump(base | values), "utf-8")
    return load_config(cls, path), path


def told(check: preflight.Check, config: RunConfig, folder: Path) -> dict[str, tuple[str, str]]:
    """By subject, the last level and text."""
    return {line.subject: (line.level, line.text) for line in check(config, folder)}


def test_a_whole_run_is_ready(tmp_path: Path, pictures: Path) -> None:
    config, path = load(
        tmp_path,
        webdataset_path=str(pictures),
        generator_checkpoint_path=str(TINY / "stage_c.safetensors"),
        previewer_checkpoint_path=str(TINY / "previewer.safetensors"),
        image_path=str(TINY / "image"),
    )
    used = preflight.require(config, path.parent)
    assert f"effnet_checkpoint_path: {TINY / 'effnet_encoder.safetensors'}" in used
    assert f"webdataset_path: {pictures}" in used
    assert f"text_path: {TINY / 'text'}" in used  # of the size, as none is named
    checks = (preflight.files, preflight.networks, preflight.towers, preflight_data.places_of, preflight_data.samples)
    lines = [line for check in checks for line in check(config, path.parent)]
    assert {line.level for line in lines} == {"ok"}
    assert any("2 of the first 2 samples open and have captions" in line.text for line in lines)


def test_all_that_is_missing_is_one_error_with_what_was_tried_and_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "work" / "models").mkdir()
    near = tmp_path / "work" / "models" / "encoder2.safetensors"
    near.touch()
    (tmp_path / "work" / "models" / "encoder.txt").touch()  # another kind of file is not near
    config, path = load(
        tmp_path, effnet_checkpoint_path="models/encoder.safetensors", webdataset_path="file:data/out.tar"
    )
    with pytest.raises(InputError) as caught:
        preflight.require(config, path.parent)
    said = str(caught.value)
    for folder in ("configs", "work"):
        assert str(tmp_path / folder / "models" / "encoder.safetensors") in said
        assert str(tmp_path / folder / "data" / "out.tar") in said
    assert f"Nearest to it is {near}." in said


def test_training_stops_before_it_makes_a_folder_or_loads_a_task(tmp_path: Path) -> None:
    _, path = load(tmp_path, webdataset_path=["nothing", "s3://bucket/never-asked"])
    with pytest.raises(
        InputError, match=r"(?s)Not all that this run needs is there:.*webdataset_path: No data at 'noth"
    ):
        train("c", path)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("where", [["configs", "work", "home"], ["work", "home"], ["home"]])
def test_the_order_in_which_weights_are_looked_for(where: list[str], tmp_path: Path) -> None:
    folders = {
        "configs": tmp_path / "configs" / OWN,
        "work": tmp_path / "work" / OWN,
        "home": tmp_path / "home" / "models" / "lite",
    }
    for name in where:
        folders[name].mkdir(parents=True)
        (folders[name] / "effnet.safetensors").touch()
    config, path = load(tmp_path, effnet_checkpoint_path=str(OWN / "effnet.safetensors"), model_version="1B")
    level, text = told(preflight.files, config, path.parent)["effnet_checkpoint_path"]
    assert (level, text) == ("ok", str(folders[where[0]] / "effnet.safetensors"))


def test_towers_are_found_by_their_official_names(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--openai--clip-vit-large-patch14" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    own = tmp_path / "home" / "models" / "text"
    own.mkdir(parents=True)
    config, _ = load(tmp_path, model_version="3.6B")  # the towers of the size, as none is named
    assert isinstance(config, StageCRun)
    assert (config.text_path, config.image_path) == (own, snapshot)
    config, _ = load(tmp_path, model_version="3.6B", clip_text_model_name="openai/clip-vit-large-patch14")
    assert isinstance(config, StageCRun)
    assert config.text_path == snapshot  # any repository that was downloaded
    (tmp_path / "configs" / "tower").mkdir()
    config, _ = load(tmp_path, clip_text_model_name="tower")
    assert isinstance(config, StageCRun)
    assert config.text_path == tmp_path / "configs" / "tower"  # a folder
    assert config.image_path is None  # `tiny` is shown no pictures unless told so


def test_a_tower_that_is_nowhere_is_told_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    config, path = load(tmp_path, model_version="1B")
    (line,) = [line for line in preflight.files(config, path.parent) if line.subject == "text_path"]
    assert line.level == "fix"
    assert "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k" in line.text
    assert "littlecascade models download lite" in line.remedy


def test_files_of_other_networks_and_sizes_are_told(tmp_path: Path) -> None:
    (tmp_path / "notes.safetensors").write_bytes(b"no weights")
    config, path = load(
        tmp_path,
        StageBRun,
        model_version="700M",
        effnet_checkpoint_path=str(TINY / "stage_a.safetensors"),
        generator_checkpoint_path=str(TINY / "stage_b.safetensors"),
        stage_a_checkpoint_path=str(TINY / "stage_a.safetensors"),
        previewer_checkpoint_path=str(tmp_path / "notes.safetensors"),
    )
    found = told(preflight.networks, config, path.parent)
    assert found["effnet_checkpoint_path"][0] == "fix"
    assert "is stage_a (tiny), not compressor" in found["effnet_checkpoint_path"][1]
    assert "is stage_b (tiny), and model_version 700M is lite" in found["generator_checkpoint_path"][1]
    assert found["stage_a_checkpoint_path"][0] == "ok"
    assert found["previewer_checkpoint_path"][0] == "fix"


def test_towers_have_to_be_as_wide_as_what_they_feed(tmp_path: Path) -> None:
    narrow = tmp_path / "narrow"
    shutil.copytree(TINY / "text", narrow)
    text = (narrow / "config.json").read_text("utf-8")
    (narrow / "config.json").write_text(text.replace('"projection_dim": 384', '"projection_dim": 96'), "utf-8")
    config, path = load(tmp_path, text_path=str(narrow), image_path=str(TINY / "image"))
    found = told(preflight.towers, config, path.parent)
    assert found["text_path"] == ("fix", f"{narrow} gives vectors of 96 values, and the network takes 384.")
    assert found["image_path"][0] == "ok"
    (tmp_path / "bare").mkdir()
    config, path = load(tmp_path, text_path=str(tmp_path / "bare"))
    assert told(preflight.towers, config, path.parent)["text_path"][0] == "fix"


def test_samples_that_do_not_open_or_say_nothing_are_told(tmp_path: Path, pictures: Path) -> None:
    config, path = load(tmp_path, webdataset_path=str(pictures))
    (pictures / "b.txt").unlink()
    (line,) = preflight_data.samples(config, path.parent)
    assert (line.level, "1 of 2 without a caption" in line.text) == ("note", True)
    (pictures / "a.png").write_bytes(b"\x89PNG no more")
    line, _ = preflight_data.samples(config, path.parent)
    assert (line.level, "a.png can't be decoded" in line.text, line.text.endswith("left out.")) == ("note", True, True)
    (pictures / "b.png").write_bytes(b"nor this")
    line, _ = preflight_data.samples(config, path.parent)
    assert (line.level, "a.png can't be decoded" in line.text) == ("fix", True)
    shutil.rmtree(pictures)
    pictures.mkdir()
    (line,) = preflight_data.samples(config, path.parent)
    assert (line.level, "no picture among" in line.text) == ("fix", True)


def test_the_first_samples_of_a_tar_are_opened(tmp_path: Path, pictures: Path) -> None:
    tar = shutil.make_archive(str(tmp_path / "shard-000"), "tar", pictures)
    config, path = load(tmp_path, webdataset_path=tar.replace("000", "{000..000}"))
    assert [line.level for line in preflight_data.samples(config, path.parent)] == ["ok"]
    (line,) = preflight_data.places_of(config, path.parent)
    assert (line.level, "1 tar file" in line.text) == ("ok", True)


def test_a_list_of_places_and_places_elsewhere_are_not_looked_into(tmp_path: Path) -> None:
    (tmp_path / "work" / "places.yml").write_text("- s3://bucket/never-asked.tar\n", "utf-8")
    config, path = load(tmp_path, webdataset_path=["places.yml", "https://host.invalid/x.tar", "pipe:never-run"])
    assert [line.level for line in preflight_data.places_of(config, path.parent)] == ["note"] * 3
    assert list(preflight_data.samples(config, path.parent)) == []
    config, path = load(tmp_path, webdataset_path="plces.yml")
    (line,) = preflight_data.places_of(config, path.parent)
    assert (line.level, "Did you mean 'places.yml'?" in line.text) == ("fix", True)
