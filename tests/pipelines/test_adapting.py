from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from littlecascade import Adapter, Cascade, InputError, StopDrawing
from littlecascade.adapters.files import Content, save
from littlecascade.adapters.injection import Deltas
from littlecascade.adapters.tokens import LearnedTokens
from littlecascade.pipelines.adapting import outlines, preset_outlines

Levels = Callable[[Image.Image, Image.Image], int]
PROMPT = "a red apple"


@pytest.fixture(scope="module")
def folder(cascade: Cascade, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters for `cascade`: of each network, of all of them with a token, and of another model."""
    folder = tmp_path_factory.mktemp("adapters")
    parts, generator = cascade.components, torch.Generator().manual_seed(0)
    own = outlines(parts.model)
    networks = {"stage_c": parts.stage_c, "stage_b": parts.stage_b, "text": parts.text.tower}

    def made(role: str, filters: tuple[str, ...]) -> Deltas:
        deltas = Deltas.create(networks[role], filters, rank=2, alpha=2.0, generator=generator)
        for parameter in deltas.parameters():
            parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator)
        return deltas

    tokens = LearnedTokens.create([("[thing]", "^apple")], parts.text.tokenizer, parts.text.tower)
    tokens.change.data += 3 * torch.randn(tokens.change.shape, generator=generator)
    prior, decoder, text = made("stage_c", (".attn",)), made("stage_b", (".attn",)), made("text", ("_proj",))
    save(folder / "c.safetensors", "official", Content({"stage_c": prior}), own)
    save(folder / "mappers.safetensors", "comfy", Content({"stage_c": made("stage_c", ("clip_txt", ".attn"))}), own)
    save(folder / "b.safetensors", "kohya", Content({"stage_b": decoder}), own)
    save(folder / "text.safetensors", "kohya", Content({"text": text}), own)
    save(folder / "all.safetensors", "onetrainer", Content({"stage_c": prior, "text": text}, tokens), own)
    save(folder / "token.safetensors", "official", Content({}, tokens), own, parts.text.tokenizer)
    lite = preset_outlines("lite")["stage_c"]
    zeros = Deltas.create(lite.to_empty(device="meta"), ["down_blocks.0.2.attention.attn.out_proj"], rank=1)
    for delta in zeros.by_site.values():
        delta.up, delta.down = (torch.nn.Parameter(torch.zeros(*p.shape)) for p in (delta.up, delta.down))
    save(folder / "lite.safetensors", "kohya", Content({"stage_c": zeros}), {"stage_c": lite})
    return folder


def draw(cascade: Cascade, *adapters: Adapter, prompt: str = PROMPT, **options: object) -> Image.Image:
    return cascade.generate(prompt, seed=1, adapters=adapters, **options).images[0]


@pytest.mark.parametrize("name", ["c", "mappers", "b", "text", "all"])
def test_each_changes_the_picture_and_leaves_the_model(
    name: str, cascade: Cascade, folder: Path, grey_levels: Levels
) -> None:
    plain = draw(cascade)
    adapter = Adapter.load(folder / f"{name}.safetensors")
    assert grey_levels(draw(cascade, adapter), plain) > 8
    assert draw(cascade).tobytes() == plain.tobytes()
    nothing = Adapter.load(folder / f"{name}.safetensors", scale=0)
    assert draw(cascade, nothing).tobytes() == plain.tobytes()


def test_ranges_of_steps_meet(cascade: Cascade, folder: Path, grey_levels: Levels) -> None:
    """First one half, then the other, is all of the time; and neither is."""
    path = folder / "c.safetensors"
    whole = draw(cascade, Adapter.load(path), steps=4)
    halves = [Adapter.load(path, steps=steps) for steps in ((0, 0.5), (0.5, 1))]
    assert grey_levels(draw(cascade, *halves, steps=4), whole) <= 1
    for half in halves:
        assert grey_levels(draw(cascade, half, steps=4), whole) > 4
    never_reached = Adapter.load(path, steps=(0.9, 1))
    assert draw(cascade, never_reached, steps=4).tobytes() == draw(cascade, steps=4).tobytes()


def test_scales_add_up(cascade: Cascade, folder: Path, grey_levels: Levels) -> None:
    path = folder / "c.safetensors"
    third, rest = Adapter.load(path, scale=0.3), Adapter.load(path, scale=0.5)
    assert grey_levels(draw(cascade, third, rest), draw(cascade, Adapter.load(path, scale=0.8))) <= 1


def test_a_learned_token_in_a_prompt(cascade: Cascade, folder: Path, grey_levels: Levels) -> None:
    token = Adapter.load(folder / "token.safetensors")
    own = draw(cascade, token, prompt="a [thing] on (grass:1.2)")
    assert grey_levels(own, draw(cascade, token, prompt="a (apple) on (grass:1.2)")) > 4
    assert draw(cascade, token).tobytes() == draw(cascade).tobytes()


@pytest.mark.parametrize("offload", ["none", "stage", "block"])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_with_little_memory(
    precision: str, offload: str, model_folder: Path, folder: Path, cascade: Cascade, grey_levels: Levels
) -> None:
    """The path lies beside whatever the base does: the pictures are as near as without adapters."""
    scarce = Cascade.load(str(model_folder), device="cpu", precision=precision, offload=offload)
    adapters = [Adapter.load(folder / f"{name}.safetensors", scale=0.7) for name in ("all", "b")]
    near = grey_levels(draw(scarce, *adapters), draw(cascade, *adapters))
    assert near <= {"float32": 1, "float16": 8, "int8": 40}[precision]
    assert near < grey_levels(draw(scarce, *adapters), draw(scarce)) or precision == "int8"


def test_the_recipe_draws_it_again(cascade: Cascade, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = [
        Adapter.load(folder / "c.safetensors", scale=0.8, steps=(0, 0.5)),
        Adapter.load(folder / "token.safetensors"),
    ]
    result = cascade.generate("a [thing]", seed=3, adapters=adapters)
    recipe = json.loads(json.dumps(result.recipe))
    assert [one["scale"] for one in recipe["adapters"]] == [0.8, 1.0]
    assert recipe["adapters"][0]["steps"] == [0.0, 0.5]
    assert recipe["adapters"][0]["digest"] == adapters[0].digest
    again = cascade.redraw(recipe)
    assert again.images[0].tobytes() == result.images[0].tobytes()
    assert cascade.redraw(recipe, adapters=[adapters[1]]).images[0].tobytes() != result.images[0].tobytes()
    assert "adapters" not in cascade.generate(PROMPT).recipe


def test_all_verbs_take_them(cascade: Cascade, folder: Path, gradient: Callable[[int, int], Image.Image]) -> None:
    adapters = [Adapter.load(folder / "c.safetensors")]
    image = gradient(64, 64)
    for verb, given in (("vary", (image,)), ("edit", (image, PROMPT))):
        changed, plain = (getattr(cascade, verb)(*given, seed=1, adapters=own).images[0] for own in (adapters, ()))
        assert changed.tobytes() != plain.tobytes()


def test_a_stop_takes_them_out(cascade: Cascade, folder: Path) -> None:
    plain = draw(cascade)

    def stop(*_: object) -> None:
        raise StopDrawing

    assert cascade.generate(PROMPT, adapters=[Adapter.load(folder / "all.safetensors")], callback=stop).stopped
    assert draw(cascade).tobytes() == plain.tobytes()


def test_what_does_not_fit_is_told_before_anything_is_read(model_folder: Path, folder: Path) -> None:
    fresh = Cascade.load(str(model_folder), device="cpu")
    with pytest.raises(InputError, match=r"is 32 x 32, and the adapter's 1536 x 1536.* It fits stage_c of lite\."):
        draw(fresh, Adapter.load(folder / "lite.safetensors"))
    token = Adapter.load(folder / "token.safetensors")
    with pytest.raises(InputError, match=r"Two adapters bring a token '\[thing\]'"):
        draw(fresh, token, token)
    assert not fresh.components._loaded
