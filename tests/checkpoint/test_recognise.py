"""What files are, by their tensors, and what is said of files that are not whole."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from littlecascade.checkpoint import files
from littlecascade.checkpoint.convert import convert
from littlecascade.checkpoint.formats import diffusers
from littlecascade.checkpoint.header import read_header
from littlecascade.checkpoint.recognise import recognise, weight_files
from littlecascade.errors import InputError


@pytest.mark.parametrize("role", ["stage_a", "stage_b", "stage_c", "compressor", "previewer", "text", "image"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_is_known_by_its_tensors_whatever_its_name(
    small_networks: ModuleType, tmp_path: Path, role: str, wrapped: bool
) -> None:
    tensors = small_networks.weights(role)
    torch.save({"state_dict": tensors} if wrapped else tensors, tmp_path / "weights_100k.pt")
    (part,) = recognise(tmp_path / "weights_100k.pt")
    assert (part.role, part.format, part.told, part.dtype) == (role, "official", False, torch.float32)
    assert part.parameters == sum(parameter.numel() for parameter in small_networks.build(role).parameters())
    assert all(tensor.is_meta for tensor in part.outline.values())
    assert all(torch.equal(part.tensors()[name], tensor) for name, tensor in tensors.items())


def test_both_towers_of_a_whole_clip_model_are_told_apart(small_networks: ModuleType, tmp_path: Path) -> None:
    towers = {role: small_networks.weights(role) for role in ("text", "image")}
    together = {name: tensor for tower in towers.values() for name, tensor in tower.items()}
    files.save(tmp_path / "model.safetensors", together | {"logit_scale": torch.ones(())})
    parts = recognise(tmp_path / "model.safetensors")
    assert {part.role: set(part.outline) for part in parts} == {role: set(tower) for role, tower in towers.items()}


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("controlnet", "projections.0.0.weight"),
        ("lora", "weights.0.lora_down"),
        ("lora", "lora_unet_down_blocks_0_2_attention_attn_to_q.lora_down.weight"),
    ],
)
def test_what_belongs_to_a_cascade_without_being_a_part_of_it(tmp_path: Path, role: str, name: str) -> None:
    files.save(tmp_path / "x.safetensors", {name: torch.zeros(2, 2)})
    (part,) = recognise(tmp_path / "x.safetensors")
    assert (part.role, part.config) == (role, None)


def test_a_file_of_something_else_holds_no_part(tmp_path: Path) -> None:
    files.save(tmp_path / "x.safetensors", {"model.layers.0.weight": torch.zeros(2)})
    assert recognise(tmp_path / "x.safetensors") == []


def test_headers_are_read_as_safetensors_has_them(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.tensor(4)}
    save_file(tensors, tmp_path / "x.safetensors", {"note": "text"})
    header = read_header(tmp_path / "x.safetensors")
    assert header.metadata == {"note": "text"}
    assert {n: (t.shape, t.dtype) for n, t in header.outline.items()} == {
        n: (t.shape, t.dtype) for n, t in tensors.items()
    }


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_a_file_cut_short_is_told_without_reading_it(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "stage_c.safetensors"
    files.save(path, {"clip_txt_mapper.weight": torch.zeros(2, 3)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"stage_c\.safetensors .*cut short"):
        recognise(path)


@pytest.mark.parametrize(
    "header", [b"not JSON", b"[]", b'{"a": 1}', b'{"a": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}}']
)
def test_a_header_that_is_none_is_told(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(InputError, match=r"x\.safetensors"):
        recognise(path)


def test_a_shard_that_is_missing_is_named(small_networks: ModuleType, tmp_path: Path) -> None:
    first, *_ = convert([small_networks.source("stage_b")], tmp_path, "diffusers", shard=200_000)
    (index,) = weight_files(tmp_path)
    first.unlink()
    with pytest.raises(InputError, match=rf"of which {first.name} are not there"):
        recognise(index)


def test_a_configuration_that_is_broken_is_told(small_networks: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    files.save(path, small_networks.weights("previewer"), {"role": "previewer", "config": "{"})
    with pytest.raises(InputError, match="configuration it carries can't be read"):
        recognise(path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    files.save(weights, diffusers.NAMINGS["stage_c"].encode(small_networks.weights("stage_c")))
    (tmp_path / "config.json").write_text(json.dumps({"block_out_channels": 3}), "utf-8")
    with pytest.raises(InputError, match=r"config\.json is no configuration of diffusers' stage_c"):
        recognise(weights)
