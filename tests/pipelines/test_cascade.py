from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from littlecascade import Cascade, InputError
from littlecascade.pipelines import cascade as cascade_module
from littlecascade.pipelines.model import Model


@pytest.fixture(scope="module")
def cascade(model_folder: Path) -> Cascade:
    return Cascade.load(str(model_folder), device="cpu")


def grey_levels(one: Image.Image, other: Image.Image) -> int:
    assert one.size == other.size
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m", "dpmpp_2m_sde", "lcm"])
def test_a_picture_does_not_depend_on_its_batch(cascade: Cascade, sampler: str) -> None:
    batch = cascade.generate("a small dog", n=8, seed=5, sampler=sampler)
    alone = cascade.generate("a small dog", seed=5 + 3, sampler=sampler)
    assert grey_levels(batch.images[3], alone.images[0]) <= 1
    assert grey_levels(batch.images[3], batch.images[4]) > 8


def test_a_picture_does_not_depend_on_its_neighbours_prompts(cascade: Cascade) -> None:
    long = "the quick brown fox jumps over the lazy dog " * 3
    mixed = cascade.generate(["pizza", long, "a small dog"], seed=0)
    alone = cascade.generate("a small dog", seed=2)
    assert grey_levels(mixed.images[2], alone.images[0]) <= 1
    assert [recipe["prompt"] for recipe in mixed.recipes] == ["pizza", long, "a small dog"]
    assert [recipe["seed"] for recipe in mixed.recipes] == [0, 1, 2]


def test_all_of_a_long_prompt_counts(cascade: Cascade) -> None:
    start = "the quick brown fox jumps over the lazy dog the quick brown fox "
    one, other = (cascade.generate(start + end, seed=0).latents for end in ("pizza", "apple"))
    assert (one - other).abs().max() > 1e-3


def test_more_pictures_than_fit_into_a_batch_come_in_order(cascade: Cascade, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cascade.generate("pizza", n=5, seed=1)
    monkeypatch.setattr(cascade_module, "BATCH", 2)
    parts = cascade.generate("pizza", n=5, seed=1)
    assert torch.allclose(whole.latents, parts.latents, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (32, 128), (72, 40), (100, 65)])
def test_any_size_within_reach_is_drawn(cascade: Cascade, size: tuple[int, int]) -> None:
    result = cascade.generate("pizza", seed=0, size=size)
    assert result.images[0].size == size
    assert result.latents.shape == (1, 16, -(-size[1] // 32), -(-size[0] // 32))


def test_a_smaller_size_is_cut_from_the_middle_of_the_next_good_one(cascade: Cascade) -> None:
    whole = cascade.generate("pizza", seed=0, size=(64, 64)).images[0]
    cut = cascade.generate("pizza", seed=0, size=(60, 58)).images[0]
    assert grey_levels(cut, whole.crop((2, 3, 62, 61))) <= 1


@pytest.mark.parametrize("size", [(0, 64), (7, 7), (64, 100000)])
def test_a_size_out_of_reach_names_the_nearest(cascade: Cascade, size: tuple[int, int]) -> None:
    nearest = "x".join(str(min(max(side, 32), 128)) for side in size)
    with pytest.raises(InputError, match=f"nearest size is {nearest}"):
        cascade.generate("pizza", size=size)


def test_a_recipe_draws_the_same_pixels(cascade: Cascade) -> None:
    first = cascade.generate("pizza", size=(72, 64), steps=4, sampler="ddpm", guidance=2.0, negative="a small dog")
    recipe = first.recipe
    again = cascade.generate(
        recipe["prompt"],
        seed=recipe["seed"],
        size=tuple(recipe["size"]),
        **{name: recipe[name] for name in ("steps", "sampler", "guidance", "negative")},
    )
    assert grey_levels(first.images[0], again.images[0]) == 0
    assert recipe == again.recipe


def test_every_setting_changes_the_picture(cascade: Cascade) -> None:
    plain = cascade.generate("pizza", seed=0).latents
    others = [{"steps": 5}, {"sampler": "ddpm"}, {"guidance": 1.0}, {"negative": "a small dog"}, {"seed": 1}]
    for other in others:
        assert (cascade.generate("pizza", **({"seed": 0} | other)).latents - plain).abs().max() > 1e-3, other


def test_the_callback_sees_every_step_and_may_ask_for_a_preview(cascade: Cascade) -> None:
    calls: list[tuple[str, int, int]] = []

    def watch(stage: str, step: int, steps: int, preview: cascade_module.Preview) -> None:
        calls.append((stage, step, steps))
        assert preview().size == (16, 16)  # 2 x 2 latents, 8 times as large

    cascade.generate("pizza", seed=0, callback=watch)
    assert calls == [("c", 1, 3), ("c", 2, 3), ("c", 3, 3), ("b", 1, 2), ("b", 2, 2)]


def test_encode_gives_one_latent_per_32_pixels(cascade: Cascade) -> None:
    assert cascade.encode([Image.new("RGB", (70, 33))] * 2).shape == (2, 16, 2, 3)
    with pytest.raises(InputError, match="one size"):
        cascade.encode([Image.new("RGB", (64, 64)), Image.new("RGB", (64, 32))])


def test_decode_follows_the_latents_or_the_size(cascade: Cascade) -> None:
    latents = torch.randn(2, 16, 2, 3, generator=torch.Generator().manual_seed(0))
    assert [image.size for image in cascade.decode(latents)] == [(96, 64)] * 2
    assert cascade.decode(latents, size=(90, 60))[0].size == (90, 60)


def test_a_reconstruction_keeps_the_shape_and_measures_itself(cascade: Cascade) -> None:
    gradient = np.linspace(0, 255, 200 * 100 * 3).reshape(100, 200, 3).astype(np.uint8)
    result = cascade.reconstruct(Image.fromarray(gradient))
    assert result.original.size == result.image.size == (64, 32)
    error = np.asarray(result.original, float) - np.asarray(result.image, float)
    assert result.psnr == pytest.approx(20 * np.log10(255) - 10 * np.log10((error**2).mean()), abs=1e-3)
    assert result.compression_factor == 3 * 64 * 32 / (16 * 2 * 1)
    assert result.side_by_side.size == (128, 32)


def test_bad_settings_are_one_clear_error(cascade: Cascade) -> None:
    with pytest.raises(InputError, match="Did you mean 'ddpm'"):
        cascade.generate("pizza", sampler="dpdm")
    with pytest.raises(InputError, match="at least 1"):
        cascade.generate("pizza", steps=0)
    with pytest.raises(InputError, match="no prompt"):
        cascade.generate([])
    with pytest.raises(InputError, match="out of range"):
        cascade.generate("pizza", seed=-1)


def test_models_are_found_by_name_or_folder(model_folder: Path, tmp_path: Path) -> None:
    assert Model.find(str(model_folder)).drawing.image_size == 64
    with pytest.raises(InputError, match="No model"):
        Model.find("tinny")
    with pytest.raises(InputError, match=r"no cascade\.json"):
        Model.find(str(tmp_path))


def test_a_missing_part_is_named_with_the_place_it_was_looked_for(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cascade.json").write_text((model_folder / "cascade.json").read_text("utf-8"), "utf-8")
    with pytest.raises(InputError, match=r"no compressor: looked for .*effnet_encoder\.safetensors"):
        Cascade.load(str(tmp_path), device="cpu").encode([Image.new("RGB", (64, 64))])


def test_the_digest_tells_weights_apart(model_folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(model_folder, copy)
    assert Model.find(str(copy)).digest == Model.find(str(model_folder)).digest
    data = bytearray((copy / "stage_c.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "stage_c.safetensors").write_bytes(data)
    assert Model.find(str(copy)).digest != Model.find(str(model_folder)).digest
