from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
import torch
from PIL import Image

from littlecascade import Cascade, InputError
from littlecascade.pipelines import drawing
from littlecascade.pipelines.model import Model
from littlecascade.pipelines.sampling import Options
from littlecascade.pipelines.size import Frame


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m", "dpmpp_2m_sde", "lcm"])
def test_a_picture_does_not_depend_on_its_batch(cascade: Cascade, sampler: str, grey_levels) -> None:
    batch = cascade.generate("a small dog", n=8, seed=5, sampler=sampler)
    alone = cascade.generate("a small dog", seed=5 + 3, sampler=sampler)
    assert grey_levels(batch.images[3], alone.images[0]) <= 1
    assert grey_levels(batch.images[3], batch.images[4]) > 8


def test_a_picture_does_not_depend_on_its_neighbours_prompts(cascade: Cascade, grey_levels) -> None:
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
    monkeypatch.setattr(drawing, "BATCH", 2)
    parts = cascade.generate("pizza", n=5, seed=1)
    assert torch.allclose(whole.latents, parts.latents, atol=1e-4)


def test_large_pictures_are_drawn_a_few_at_a_time() -> None:
    sizes = {side: drawing.batch_size(Frame.of((side, side), 42.67)) for side in (256, 512, 1024, 1536, 2048)}
    assert sizes == {256: 8, 512: 8, 1024: 2, 1536: 1, 2048: 1}


@pytest.mark.parametrize("size", [(64, 64), (32, 128), (128, 16), (72, 40), (100, 65), (181, 23)])
def test_any_size_within_reach_is_drawn(cascade: Cascade, size: tuple[int, int]) -> None:
    result = cascade.generate("pizza", seed=0, size=size)
    assert result.images[0].size == size
    assert result.latents.shape == (1, 16, -(-size[1] // 32), -(-size[0] // 32))


def test_a_smaller_size_is_cut_from_the_middle_of_the_next_good_one(cascade: Cascade, grey_levels) -> None:
    whole = cascade.generate("pizza", seed=0, size=(64, 64)).images[0]
    cut = cascade.generate("pizza", seed=0, size=(60, 58)).images[0]
    assert grey_levels(cut, whole.crop((2, 3, 62, 61))) <= 1


def test_every_setting_changes_the_picture(cascade: Cascade) -> None:
    plain = cascade.generate("pizza", seed=0).latents
    others: list[dict[str, Any]] = [
        *({"steps": 5}, {"sampler": "ddpm"}, {"guidance": 1.0}, {"rescale": 0.0}, {"guidance_interval": (0.5, 1.0)}),
        *({"negative": "a small dog"}, {"seed": 1}, {"prompt": "(pizza:1.5)"}),
    ]
    for other in others:
        changed = cascade.generate(**({"prompt": "pizza", "seed": 0} | other))
        assert (changed.latents - plain).abs().max() > 1e-3, other


def test_every_setting_of_the_decoder_changes_the_picture_and_not_the_latents(cascade: Cascade, grey_levels) -> None:
    plain = cascade.generate("pizza", seed=0)
    for other in ({"decoder_steps": 4}, {"decoder_sampler": "ddim"}, {"decoder_guidance": 2.0}):
        changed = cascade.generate("pizza", seed=0, **other)
        assert torch.equal(changed.latents, plain.latents), other
        assert grey_levels(changed.images[0], plain.images[0]) > 2, other


def test_none_stands_for_the_models_own_setting(cascade: Cascade) -> None:
    options = dict.fromkeys(get_type_hints(Options))
    assert len(options) == 8
    assert cascade.generate("pizza", seed=0, **options).recipe == cascade.generate("pizza", seed=0).recipe


def test_guidance_runs_only_where_it_is_asked_for(cascade: Cascade) -> None:
    """The rows that each network sees at a step: twice as many under guidance."""
    rows: dict[str, list[int]] = {"c": [], "b": []}
    parts = cascade.components
    hooks = [
        parts.stage_c.clf.register_forward_pre_hook(lambda _, inputs: rows["c"].append(len(inputs[0]))),
        parts.stage_b.clf.register_forward_pre_hook(lambda _, inputs: rows["b"].append(len(inputs[0]))),
    ]
    cascade.generate("pizza", seed=0, steps=4)
    cascade.generate("pizza", seed=0, steps=4, guidance=1.0, decoder_guidance=1.5)
    cascade.generate("pizza", seed=0, steps=4, guidance_interval=(0.4, 0.8))  # of the times 1, 0.75, 0.5 and 0.25
    for hook in hooks:
        hook.remove()
    assert rows == {"c": [2] * 4 + [1] * 4 + [1, 2, 2, 1], "b": [1, 1, 2, 2, 1, 1]}


def test_what_no_step_changes_is_computed_once(cascade: Cascade) -> None:
    """Conditions are mapped for the prompt and, under guidance, for the negative one; never again."""
    calls: list[str] = []
    parts = cascade.components
    parts.text.clear()
    watched = {"text": parts.text.tower, "c": parts.stage_c.clip_norm, "b": parts.stage_b.effnet_mapper}
    hooks = [part.register_forward_pre_hook(lambda *_, name=name: calls.append(name)) for name, part in watched.items()]
    cascade.generate("pizza", n=3, seed=0, steps=6)
    for hook in hooks:
        hook.remove()
    assert calls == ["text", "text", "c", "c", "b"]


def test_bad_settings_are_one_clear_error(cascade: Cascade) -> None:
    with pytest.raises(InputError, match="Did you mean 'ddpm'"):
        cascade.generate("pizza", sampler="dpdm")
    with pytest.raises(InputError, match="at least 1"):
        cascade.generate("pizza", steps=0)
    with pytest.raises(InputError, match="no prompt"):
        cascade.generate([])
    with pytest.raises(InputError, match="out of range"):
        cascade.generate("pizza", seed=-1)
    with pytest.raises(InputError, match="two times in order"):
        cascade.generate("pizza", guidance_interval=(0.8, 0.2))
    with pytest.raises(InputError, match="finite"):
        cascade.generate("pizza", guidance=float("nan"))
    with pytest.raises(InputError, match="never closed"):
        cascade.generate("a (pizza")
    with pytest.raises(InputError, match="nearest size is 128x16"):
        cascade.generate("pizza", size=(100000, 16))
    with pytest.raises(TypeError, match="Did you mean 'steps'"):
        cascade.generate("pizza", step=3)


def test_mistakes_are_told_before_a_network_is_read(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unread = Cascade.load(str(model_folder), device="cpu")
    monkeypatch.setattr(
        unread, "components", SimpleNamespace(model=unread.components.model, placement=unread.components.placement)
    )
    for mistake in ({"size": (1, 1)}, {"sampler": "x"}, {"decoder_steps": 0}, {"negative": "("}, {"seed": -1}):
        with pytest.raises(InputError):
            unread.generate("pizza", **mistake)


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
