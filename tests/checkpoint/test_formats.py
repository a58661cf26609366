"""Names of tensors in other formats and back, and folders that diffusers itself loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from littlecascade.checkpoint.convert import convert
from littlecascade.checkpoint.derive import derive, structure
from littlecascade.checkpoint.formats import FORMATS, comfy, diffusers
from littlecascade.checkpoint.header import read_header
from littlecascade.checkpoint.networks import ROLES
from littlecascade.checkpoint.recognise import recognise, weight_files
from littlecascade.errors import InputError
from littlecascade.models.config import from_dict, to_dict
from littlecascade.presets import PRESETS

GOLDEN = Path(__file__).parents[1] / "golden" / "keys"
PARTS = ["stage_a", "stage_b", "stage_c", "compressor", "previewer", "text", "image"]
OFFICIAL = {
    **{name: ("full", name) for name in ("stage_a", "compressor", "previewer")},
    **{f"{stage}_{size}": (size, stage) for stage in ("stage_b", "stage_c") for size in ("full", "lite")},
}
"""Golden files, and the size and role that they are of."""


def golden(name: str) -> dict[str, Tensor]:
    """The tensors of a full-size network, without data."""
    tensors = {}
    for line in (GOLDEN / f"{name}.txt").read_text("utf-8").splitlines():
        key, shape, dtype = line.split(" ")
        sizes = [int(side) for side in shape.split("x")] if shape else []
        tensors[key] = torch.empty(sizes, dtype=getattr(torch, dtype), device="meta")
    return tensors


def assert_same(left, right) -> None:
    assert set(left) == set(right)
    for name in right:
        assert left[name].dtype == right[name].dtype
        assert torch.equal(left[name], right[name])


@pytest.mark.parametrize("form", FORMATS)
def test_every_part_comes_back_from_every_format(small_networks: ModuleType, tmp_path: Path, form: str) -> None:
    sources = [small_networks.source(role) for role in PARTS]
    convert(sources, tmp_path, form)
    found = {part.role: part for path in weight_files(tmp_path) for part in recognise(path)}
    assert set(found) == set(PARTS)
    for source in sources:
        assert_same(found[source.role].tensors(), source.tensors)
        assert structure(found[source.role].config) == structure(source.config)


@pytest.mark.parametrize("form", FORMATS)
def test_what_shapes_do_not_show_travels_along(small_networks: ModuleType, tmp_path: Path, form: str) -> None:
    """Scale, strides, heads and the notes of training."""
    sources = [replace(small_networks.source(role), notes={"target": "v"}) for role in PARTS[:5]]
    convert(sources, tmp_path, form, shard=200_000)
    for path in weight_files(tmp_path):
        for part in recognise(path):
            assert part.notes == {"target": "v"}
            assert from_dict(ROLES[part.role].config, part.config) == small_networks.CONFIGS[part.role]


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("form", FORMATS)
def test_full_size_names_and_shapes_come_back(form: str, name: str) -> None:
    size, role = OFFICIAL[name]
    tensors = golden(name)
    naming = FORMATS[form].naming(role)
    encoded = naming.encode(tensors)
    decoded = naming.decode(dict(encoded.items()))
    assert {key: tensor.shape for key, tensor in decoded.items()} == {key: t.shape for key, t in tensors.items()}
    assert structure(derive(role, tensors)) == structure(to_dict(getattr(PRESETS[size], role)))


@pytest.mark.parametrize("size", ["full", "lite"])
@pytest.mark.parametrize("role", ["stage_a", "stage_b", "stage_c"])
def test_full_size_names_are_those_of_diffusers(size: str, role: str) -> None:
    tensors = golden(role if role == "stage_a" else f"{role}_{size}")
    config = diffusers.write_config(role, to_dict(getattr(PRESETS[size], role)))
    with torch.device("meta"):
        theirs = class_of(role)(**{name: value for name, value in config.items() if name[0] != "_"}).state_dict()
    encoded = diffusers.NAMINGS[role].encode(tensors)
    assert {key: tensor.shape for key, tensor in encoded.items()} == {key: t.shape for key, t in theirs.items()}


def class_of(role: str):
    if role == "stage_a":
        module = pytest.importorskip("diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model")
        return module.PaellaVQModel
    return pytest.importorskip("diffusers.models.unets.unet_stable_cascade").StableCascadeUNet


def ours(small_networks: ModuleType, role: str) -> torch.nn.Module:
    network = small_networks.build(role)
    network.load_state_dict(small_networks.weights(role))
    return network.eval()


@pytest.mark.parametrize("shard", [10**9, 300_000])
@torch.no_grad()
def test_diffusers_loads_our_stage_c(small_networks: ModuleType, tmp_path: Path, shard: int) -> None:
    files = convert([small_networks.source("stage_c")], tmp_path, "diffusers", shard=shard)
    assert (len(files) > 1) == (shard == 300_000)
    theirs = class_of("stage_c").from_pretrained(tmp_path / "prior").eval()
    x, time, text = torch.randn(1, 6, 4, 3), torch.tensor([0.3]), torch.randn(1, 7, 64)
    pooled, image = torch.randn(1, 1, 12), torch.randn(1, 1, 8)
    sca, crp = torch.tensor([0.2]), torch.tensor([0.7])
    network = ours(small_networks, "stage_c")
    drawn = network(x, time, **network.encode_conditions(text, pooled, image), sca=sca, crp=crp)
    expected = theirs(x, time, pooled, text, image, sca=sca, crp=crp).sample
    assert expected.std() > 0.01
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_diffusers_loads_our_stage_b(small_networks: ModuleType, tmp_path: Path) -> None:
    convert([small_networks.source("stage_b")], tmp_path, "diffusers", dtype=torch.float32)
    theirs = class_of("stage_b").from_pretrained(tmp_path / "decoder").eval()
    x, time, effnet = torch.randn(1, 5, 8, 16), torch.tensor([0.6]), torch.randn(1, 6, 3, 5)
    pooled = torch.randn(1, 1, 12)
    network = ours(small_networks, "stage_b")
    drawn = network(x, time, **network.encode_conditions(effnet, pooled, size=(8, 16)))
    expected = theirs(x, time, pooled, effnet=effnet).sample
    assert expected.std() > 0.01
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_diffusers_loads_our_stage_a_with_its_scale_outside(small_networks: ModuleType, tmp_path: Path) -> None:
    convert([small_networks.source("stage_a")], tmp_path, "diffusers")
    theirs = class_of("stage_a").from_pretrained(tmp_path / "vqgan").eval()
    network = ours(small_networks, "stage_a")
    assert theirs.config.scale_factor == network.config.scale == 0.5
    latents = torch.randn(2, 5, 3, 4)
    expected = theirs.decode(latents * theirs.config.scale_factor).sample
    torch.testing.assert_close(network.decode(latents), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("role", ["stage_a", "stage_b", "stage_c"])
def test_what_diffusers_saves_is_read(small_networks: ModuleType, tmp_path: Path, role: str) -> None:
    """In shards and in bfloat16, with diffusers' own config.json."""
    config = diffusers.write_config(role, to_dict(small_networks.CONFIGS[role]))
    theirs = class_of(role)(**{name: value for name, value in config.items() if name[0] != "_"})
    official = {name: tensor.bfloat16() for name, tensor in small_networks.weights(role).items()}
    encoded = diffusers.NAMINGS[role].encode(official)
    theirs.bfloat16().load_state_dict(dict(encoded.items()))
    theirs.save_pretrained(tmp_path, max_shard_size="200KB")
    (path,) = weight_files(tmp_path)
    (part,) = recognise(path)
    assert (part.role, part.format, part.dtype) == (role, "diffusers", torch.bfloat16)
    assert from_dict(ROLES[role].config, part.config) == small_networks.CONFIGS[role]
    read = part.tensors()
    assert set(read) == set(official)
    assert all(torch.equal(read[name], tensor.to(read[name].dtype)) for name, tensor in official.items())


@pytest.mark.parametrize("role", ["stage_b", "stage_c"])
def test_comfy_files_are_read_as_comfy_saves_them(small_networks: ModuleType, role: str) -> None:
    """With three matrices of attention, the projection of the text transposed and a CLIP model's scale."""
    trunk, text = small_networks.weights(role), small_networks.weights("text")
    stored = {}
    for name, tensor in trunk.items():
        for kind in ("weight", "bias"):
            if name.endswith(f"in_proj_{kind}"):
                stem = f"model.diffusion_model.{name.removesuffix(f'in_proj_{kind}')}"
                stored |= {f"{stem}to_{letter}.{kind}": t for letter, t in zip("qkv", tensor.chunk(3), strict=True)}
                break
        else:
            stored[f"model.diffusion_model.{name}"] = tensor
    stored |= {f"text_encoder.clip_g.transformer.{name}": tensor for name, tensor in text.items()}
    projection = stored.pop("text_encoder.clip_g.transformer.text_projection.weight")
    stored["text_encoder.clip_g.text_projection"] = projection.T
    stored["text_encoder.clip_g.logit_scale"] = torch.tensor(4.6)
    assert_same(comfy.NAMINGS[role].decode(stored), trunk)
    assert_same(comfy.NAMINGS["text"].decode(stored), text)


def test_number_formats_change_and_counters_do_not(small_networks: ModuleType, tmp_path: Path) -> None:
    source = small_networks.source("previewer")
    convert([source], tmp_path / "previewer.safetensors", "official", dtype=torch.bfloat16)
    header = read_header(tmp_path / "previewer.safetensors")
    assert {tensor.dtype for tensor in header.outline.values()} == {torch.bfloat16, torch.int64}
    read = header.tensors()
    assert all(torch.equal(read[name], tensor.to(read[name].dtype)) for name, tensor in source.tensors.items())


def test_parts_that_do_not_go_into_one_file_are_refused(small_networks: ModuleType, tmp_path: Path) -> None:
    sources = [small_networks.source(role) for role in ("stage_c", "previewer")]
    with pytest.raises(InputError, match=r"stage_c, previewer do not go into one file"):
        convert(sources, tmp_path / "x.safetensors", "official")
    convert(sources, tmp_path / "x.safetensors", "comfy")
    assert {part.role for part in recognise(tmp_path / "x.safetensors")} == {"stage_c", "previewer"}
