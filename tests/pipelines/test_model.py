"""Finding weights by size, folder, files and configurations, in every format, and what is said of bad ones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from littlecascade import Cascade, presets
from littlecascade.checkpoint import files
from littlecascade.checkpoint.convert import convert
from littlecascade.checkpoint.formats import FORMATS
from littlecascade.checkpoint.networks import ROLES
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.errors import InputError
from littlecascade.pipelines.conversion import convert_model
from littlecascade.pipelines.model import Model

CONFIGS = Path(__file__).parents[2] / "configs" / "inference"
OFFICIAL_STAGE_B = """
model_version: 3B

webdataset_path: file:/data/imagenet_1024.tar
batch_size: 4
image_size: 1024
grad_accum_steps: 1

effnet_checkpoint_path: /there/is/none/effnet_encoder.safetensors
stage_a_checkpoint_path: /there/is/none/stage_a.safetensors
generator_checkpoint_path: /there/is/none/stage_b_bf16.safetensors
"""


def larger(config):
    """The same network with one more unit of depth at the first level."""
    return replace(config, trunk=replace(config.trunk, down_depths=(2, *config.trunk.down_depths[1:])))


@pytest.fixture
def installed(small_networks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models that has small networks for lite and full under the official names, in both precisions."""
    grown = {role: larger(small_networks.CONFIGS[role]) for role in ("stage_b", "stage_c")}
    sizes = {"lite": small_networks.preset("lite"), "full": small_networks.preset("full", **grown)}
    for name, preset in sizes.items():
        monkeypatch.setitem(presets.PRESETS, name, preset)
    monkeypatch.setenv("LITTLECASCADE_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "models"
    for role in ("stage_a", "compressor", "previewer"):
        files.save(folder / ROLES[role].file, small_networks.weights(role))
    for role in ("text", "image"):
        files.save(folder / role / "model.safetensors", small_networks.weights(role))
    for size, ending in (("lite", "_lite"), ("full", "")):
        for role in ("stage_b", "stage_c"):
            tensors = small_networks.weights(role, getattr(sizes[size], role))
            half = {name: tensor.bfloat16() for name, tensor in tensors.items()}
            files.save(folder / f"{role}{ending}.safetensors", tensors)
            files.save(folder / f"{role}{ending}_bf16.safetensors", half)
    return folder


@pytest.mark.parametrize("form", FORMATS)
def test_a_model_is_the_same_in_every_format(model_folder: Path, tmp_path: Path, form: str) -> None:
    """Configurations, weights, what training noted, the tokenizer, and how it draws."""
    convert_model(str(model_folder), tmp_path / "x", form)
    original, found = Model.find(str(model_folder)), Model.find(str(tmp_path / "x"))
    assert found.drawing == original.drawing
    for role in ROLES:
        ours, theirs = found.network(role), original.network(role)
        assert ours.config == theirs.config
        assert ours.notes == theirs.notes
        assert set(ours.part.tensors()) == set(theirs.part.tensors())
        assert all(torch.equal(ours.part.tensors()[name], tensor) for name, tensor in theirs.part.tensors().items())
    for ours, theirs in ((found.text(), original.text()), (found.image(), original.image())):
        assert ours.config == theirs.config
        assert ours.settings == theirs.settings
        assert all(torch.equal(ours.part.tensors()[name], tensor) for name, tensor in theirs.part.tensors().items())
    own, other = (ClipTokenizer.load(model.text().folder) for model in (found, original))
    assert own.encode("a red apple") == other.encode("a red apple")


def test_a_pickled_compressor_and_previewer_stand_for_their_files(
    small_networks: ModuleType, model_folder: Path, tmp_path: Path
) -> None:
    convert([small_networks.source("stage_c")], tmp_path, "own")
    shutil.copy(model_folder / "cascade.json", tmp_path)
    for role in ("compressor", "previewer"):
        torch.save({"state_dict": small_networks.weights(role)}, tmp_path / f"{role}_600k.pt")
    model = Model.find(str(tmp_path))
    assert model.network("previewer").config == small_networks.CONFIGS["previewer"]
    assert model.network("previewer").path.name == "previewer_600k.pt"
    with pytest.raises(InputError, match=r"compressor_600k\.pt does not say all of how its compressor is built"):
        model.network("compressor")  # strides do not show in shapes, and no named size has these


@pytest.mark.parametrize("size", ["lite", "full"])
def test_a_size_takes_its_own_files_and_the_shorter_ones(installed: Path, size: str) -> None:
    ending = {"lite": "_lite", "full": ""}[size]
    model = Model.find(size)
    for role in ("stage_b", "stage_c"):
        weights = model.network(role)
        assert weights.path == installed / f"{role}{ending}_bf16.safetensors"
        assert weights.config == getattr(presets.PRESETS[size], role)
    for role in ("stage_a", "compressor", "previewer"):
        assert model.network(role).config == getattr(presets.PRESETS[size], role)
    assert model.drawing == presets.PRESETS[size].drawing
    assert Model.find({"lite": "1B", "full": "3.6B"}[size]).digest == model.digest


def test_a_finetune_goes_by_its_name(installed: Path, model_folder: Path) -> None:
    shutil.copytree(model_folder, installed / "emoji")
    assert Model.find("emoji").digest == Model.find(str(model_folder)).digest
    with pytest.raises(InputError, match="Did you mean 'emoji'"):
        Model.find("emojy")


def test_what_was_downloaded_is_found_in_the_cache(installed: Path) -> None:
    folder = installed.parent / "hub" / "models--stabilityai--stable-cascade"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc", "utf-8")
    shutil.copytree(installed, folder / "snapshots" / "abc")
    shutil.rmtree(installed)
    assert Model.find("full").network("stage_c").path == folder / "snapshots" / "abc" / "stage_c_bf16.safetensors"


def test_a_missing_part_is_told_with_every_path_and_the_command(installed: Path) -> None:
    for path in installed.glob("stage_b_lite*"):
        path.unlink()
    with pytest.raises(InputError) as caught:
        Model.find("lite").network("stage_b")
    for folder in (installed / "lite", installed):
        for name in ("stage_b_lite_bf16.safetensors", "stage_b_lite.safetensors"):
            assert str(folder / name) in str(caught.value)
    assert "littlecascade models download lite --only stage_b" in str(caught.value)
    assert "stage_b_bf16.safetensors is stage_b (full)" in str(caught.value)


def test_all_that_a_command_lacks_is_told_at_once(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.find("lite")
    model.require("vary")
    (installed / "stage_b_lite.safetensors").unlink()
    (installed / "stage_b_lite_bf16.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no stage_b: looked for .*stage_b_lite_bf16"):
        Cascade.load("lite", device="cpu").generate("pizza")
    (installed / "stage_a.safetensors").unlink()
    with pytest.raises(InputError, match=r"'lite' has no stage_b, stage_a: looked in .* 'littlecascade models downl"):
        Cascade.load("lite", device="cpu").generate("pizza")
    with pytest.raises(InputError, match=r"has no stage_b, stage_a"):
        Cascade.load("lite", device="cpu").reconstruct(Image.new("RGB", (64, 64)))


def test_a_file_of_another_stage_is_told_what_it_is(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    shutil.copy(tmp_path / "model" / "stage_a.safetensors", tmp_path / "model" / "stage_c.safetensors")
    with pytest.raises(InputError, match=r"has no stage_c: .*stage_c\.safetensors is stage_a \(of no named size\)"):
        Model.find(str(tmp_path / "model")).network("stage_c")


def test_a_file_cut_short_is_told_where_it_is_missed(installed: Path) -> None:
    (installed / "stage_a.safetensors").write_bytes((installed / "stage_a.safetensors").read_bytes()[:-1])
    with pytest.raises(InputError, match=r"stage_a\.safetensors has .* bytes .* cut short"):
        Model.find("lite").network("stage_a")


def test_a_text_tower_without_its_tokenizer_is_told(installed: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer \(tokenizer\.json.*download full --only text"):
        Model.find("full").text()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_inference_configuration_loads_as_it_stands(installed: Path, path: Path) -> None:
    """With official files wherever they are installed, or in `models/` of the folder one is in."""
    model = Model.find(str(path))
    role = "stage_b" if path.stem == "stage_b_3b" else "stage_c"
    assert model.network(role).path == installed / f"{role}_bf16.safetensors"
    assert model.settings["model_version"] in ("3.6B", "3B")
    assert model.drawing == presets.PRESETS["full"].drawing
    for name in ROLES:
        assert model.network(name).config == getattr(presets.PRESETS["full"], name)


def test_the_official_release_has_these_configurations() -> None:
    names = [f"controlnet_c_3b_{kind}" for kind in ("canny", "identity", "inpainting", "sr")]
    assert {path.stem for path in CONFIGS.iterdir()} == {*names, "lora_c_3b", "stage_b_3b", "stage_c_3b"}


def test_files_and_configurations_may_be_mixed(installed: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "stage_b.yaml").write_text(OFFICIAL_STAGE_B, "utf-8")
    finetune = installed / "finetunes" / "mine.safetensors"
    finetune.parent.mkdir()
    (installed / "stage_c.safetensors").rename(finetune)
    model = Model.find(f"{finetune}, {tmp_path / 'stage_b.yaml'}")
    assert model.network("stage_c").path == finetune
    assert model.network("stage_b").path == installed / "stage_b_bf16.safetensors"
    assert model.settings["webdataset_path"] == "file:/data/imagenet_1024.tar"
    alone = Model.find(str(finetune))
    assert alone.size == "full"
    assert alone.network("stage_c").path == finetune


def test_relative_paths_are_of_here_or_of_the_configuration(installed: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "model_version: 3.6B\ngenerator_checkpoint_path: models/stage_c.safetensors\n"
    (tmp_path / "c.yaml").write_text(text, "utf-8")
    assert Model.find("c.yaml").network("stage_c").path == installed / "stage_c.safetensors"
    monkeypatch.chdir(installed)
    assert Model.find("../c.yaml").network("stage_c").path.resolve() == installed / "stage_c.safetensors"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "generator_checkpoint_path: models/stage_a.safetensors",
            r"is stage_a \(lite or full\), not stage_c or stage_b",
        ),
        ("model_version: 1B\ngenerator_checkpoint_path: models/stage_c.safetensors", r"is stage_c \(full\).* for lite"),
        ("generator_checkpoint: x", r"no key 'generator_checkpoint'\. Did you mean 'generator_checkpoint_path'"),
        ("model_version: 5B\ngenerator_checkpoint_path: x", "Unknown size '5B'"),
        ("model_version: 3.6B", "names no weights"),
        ("- x", "no configuration"),
        ("a: [", "can't be read"),
        ("effnet_checkpoint_path: a.pt\nstage_a_checkpoint_path: b.pt", r"tried .*a\.pt.*tried .*b\.pt.*download SIZE"),
    ],
)
def test_configurations_that_can_not_be(installed: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.yaml").write_text(text, "utf-8")
    with pytest.raises(InputError, match=said):
        Model.find(str(tmp_path / "x.yaml"))


def test_one_file_of_tiny_is_completed_by_the_package(tmp_path: Path) -> None:
    packaged = Model.find("tiny")
    shutil.copy(packaged.network("stage_c").path, tmp_path / "mine.safetensors")
    model = Model.find(str(tmp_path / "mine.safetensors"))
    assert model.network("stage_c").path == tmp_path / "mine.safetensors"
    assert model.network("stage_b").path == packaged.network("stage_b").path
    assert model.text().folder == packaged.text().folder


def test_a_lora_beside_a_model_does_not_make_it_another(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    files.save(tmp_path / "model" / "lora.safetensors", {"weights.0.lora_down": torch.zeros(2)})
    assert Model.find(str(tmp_path / "model")).digest == Model.find(str(model_folder)).digest
    convert_model(str(tmp_path / "model"), tmp_path / "official", "official")
    with pytest.raises(InputError, match="holds lora, and none of what can be converted"):
        convert_model(str(tmp_path / "model" / "lora.safetensors"), tmp_path / "x.safetensors", "comfy")


def test_the_digest_does_not_depend_on_the_place(model_folder: Path, tmp_path: Path) -> None:
    assert Model.find("tiny").digest in (Model.find("tiny").folder / "MODEL_CARD.md").read_text("utf-8")
    shutil.copytree(model_folder, tmp_path / "other")
    assert Model.find(str(tmp_path / "other")).digest == Model.find(str(model_folder)).digest


def test_a_conversion_overwrites_nothing(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(InputError, match="exists already"):
        convert_model(str(model_folder), tmp_path, "own")  # not even an empty folder's place
    with pytest.raises(InputError, match="exists already"):
        convert_model(str(model_folder / "stage_c.safetensors"), tmp_path / "x.safetensors", "comfy")


def test_a_single_file_is_converted_alone(model_folder: Path, tmp_path: Path) -> None:
    source, target = model_folder / "stage_b.safetensors", tmp_path / "b.safetensors"
    assert convert_model(str(source), target, "diffusers", dtype=torch.float16) == [target]
    original, converted = files.load(source), files.load(target)
    assert "clip_txt_pooled_mapper.weight" in converted
    assert torch.equal(converted["clf.1.weight"], original["clf.1.weight"].half())
    original["embedding.1.weight"].fill_(1e5)
    files.save(tmp_path / "large.safetensors", original, files.metadata(source))
    with pytest.raises(InputError, match=r"embedding\.1\.weight reaches 1e\+05, which float16 can't hold"):
        convert_model(str(tmp_path / "large.safetensors"), tmp_path / "y.safetensors", "official", dtype=torch.float16)
    assert not (tmp_path / "y.safetensors").exists()


def test_a_conversion_that_fails_leaves_nothing(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    path = tmp_path / "model" / "stage_c.safetensors"
    tensors = files.load(path) | {"clf.1.bias": torch.full((16,), 1e6)}
    files.save(path, {name: tensor.clone() for name, tensor in tensors.items()}, files.metadata(path))
    with pytest.raises(InputError, match=r"clf\.1\.bias reaches 1e\+06"):
        convert_model(str(tmp_path / "model"), tmp_path / "half", "official", dtype=torch.float16)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
