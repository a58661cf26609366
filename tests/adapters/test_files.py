from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from littlecascade.adapters.deltas import LoRA
from littlecascade.adapters.files import Adapter, Content, save
from littlecascade.adapters.injection import Deltas, Injection, Layer
from littlecascade.adapters.tokens import LearnedTokens, TokenInjection
from littlecascade.checkpoint import files
from littlecascade.conditioning.clip import TextTower
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.errors import InputError

Predict = Callable[[nn.Module], Tensor]
ATTN = "down_blocks.0.2.attention.attn"
FLAT = "down_blocks_0_2_attention_attn"
HELD = {
    "official": ("lora",),
    "peft": ("lora", "dora"),
    **dict.fromkeys(("onetrainer", "kohya", "comfy"), ("lora", "dora", "loha", "lokr")),
}


def never() -> ClipTokenizer:
    raise AssertionError("there are no tokens")


@torch.no_grad()
def with_adapter(network: nn.Module, deltas: Deltas, predict: Predict) -> Tensor:
    with Injection(network, [Layer(deltas)]):
        return predict(network)


@pytest.mark.parametrize(
    ("form", "kind", "role"),
    [(form, kind, "stage_c") for form, kinds in HELD.items() for kind in kinds]
    + [(form, kinds[-1], "stage_b") for form, kinds in HELD.items()],
)
def test_outputs_survive_every_format(
    form: str,
    kind: str,
    role: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    predict: Predict,
    trained: Callable[..., Deltas],
) -> None:
    network = request.getfixturevalue(role)
    deltas = trained(network, kind, filters=(".attn", "kv_mapper", "clf.1") if form != "official" else (".attn",))
    path = save(tmp_path / "a.safetensors", form, Content({role: deltas}), {role: network})
    adapter = Adapter.load(path)
    assert adapter.form == form
    with torch.device("meta"):
        outlines = {name: type(net)(net.config) for name, net in _both(request).items()}
    (found,) = adapter.read(outlines, never).deltas.items()
    assert found[0] == role
    expected = with_adapter(network, deltas, predict)
    torch.testing.assert_close(with_adapter(network, found[1], predict), expected, rtol=1e-5, atol=1e-5)


def _both(request: pytest.FixtureRequest) -> dict[str, nn.Module]:
    return {role: request.getfixturevalue(role) for role in ("stage_c", "stage_b")}


def test_around_all_formats_and_back(
    stage_c: nn.Module, tmp_path: Path, predict: Predict, trained: Callable[..., Deltas]
) -> None:
    """Fused to split and split to fused, again and again, with no change and no growth."""
    deltas = trained(stage_c, alpha=1.0)
    expected = with_adapter(stage_c, deltas, predict)
    for number, form in enumerate([*HELD, "official", "kohya", "official"]):
        path = save(tmp_path / f"{number}.safetensors", form, Content({"stage_c": deltas}), {"stage_c": stage_c})
        deltas = Adapter.load(path).read({"stage_c": stage_c}, never).deltas["stage_c"]
        torch.testing.assert_close(with_adapter(stage_c, deltas, predict), expected, rtol=1e-5, atol=1e-5)
    assert {delta.rank for delta in deltas.by_site.values()} == {3}


def test_split_loras_that_share_nothing_become_fused_ones(stage_c: nn.Module, tmp_path: Path, predict: Predict) -> None:
    torch.manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for letter, rank in (("q", 2), ("k", 1), ("v", 2)):
        stem = f"lora_unet_{FLAT}_to_{letter}"
        tensors |= {f"{stem}.lora_up.weight": torch.randn(64, rank), f"{stem}.lora_down.weight": torch.randn(rank, 64)}
        tensors[f"{stem}.alpha"] = torch.tensor(1.0)
    files.save(tmp_path / "kohya.safetensors", tensors)
    split = Adapter.load(tmp_path / "kohya.safetensors").read({"stage_c": stage_c}, never)
    path = save(tmp_path / "official.safetensors", "official", split, {"stage_c": stage_c})
    written = files.load(path)
    assert written["weights.1.lora_down"].shape == (5, 64)
    fused = Adapter.load(path).read({"stage_c": stage_c}, never)
    expected = with_adapter(stage_c, split.deltas["stage_c"], predict)
    torch.testing.assert_close(with_adapter(stage_c, fused.deltas["stage_c"], predict), expected, rtol=1e-5, atol=1e-5)


def test_the_names_in_each_format(stage_c: nn.Module, tmp_path: Path, trained: Callable[..., Deltas]) -> None:
    """As OneTrainer, kohya's scripts, ComfyUI and PEFT have them."""
    deltas = trained(stage_c)
    up = deltas.by_site[f"{ATTN}.in_proj"].up
    assert up.shape == (192, 3)
    expected = {
        "onetrainer": [f"lora_prior_unet_{FLAT}_to_k", f"lora_prior_unet_{FLAT}_out_proj"],
        "kohya": [f"lora_unet_{FLAT}_to_k", f"lora_unet_{FLAT}_out_proj"],
        "comfy": [f"diffusion_model.{ATTN}.to_k", f"diffusion_model.{ATTN}.out_proj"],
    }
    for form, stems in expected.items():
        written = files.load(
            save(tmp_path / f"{form}.safetensors", form, Content({"stage_c": deltas}), {"stage_c": stage_c})
        )
        assert all(
            f"{stem}.{end}" in written for stem in stems for end in ("lora_up.weight", "lora_down.weight", "alpha")
        )
        assert torch.equal(written[f"{stems[0]}.lora_up.weight"], up[64:128])
        assert len(written) == 4 * 3 * len(deltas) // 2
    folder = save(tmp_path / "peft", "peft", Content({"stage_c": deltas}), {"stage_c": stage_c}).parent
    peft = files.load(folder / "adapter_model.safetensors")
    start = "base_model.model.down_blocks.0.2.attention"
    assert {f"{start}.{name}.lora_{letter}.weight" for name in ("to_q", "to_out.0") for letter in "AB"} <= set(peft)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 3
    official = files.load(
        save(tmp_path / "o.safetensors", "official", Content({"stage_c": deltas}), {"stage_c": stage_c})
    )
    assert set(official) == {f"weights.{i}.lora_{way}" for i in range(len(deltas)) for way in ("down", "up")}
    torch.testing.assert_close(official["weights.1.lora_up"], up * 2.0)  # alpha is 1 there
    assert official["weights.0.lora_up"].shape == (64, 3)


def test_an_official_file_is_what_the_official_code_loads(stage_c: nn.Module, tmp_path: Path, predict: Predict) -> None:
    """Its scale is 1 / rank; each layer is found by its place. Written here by hand, without metadata."""
    generator = torch.Generator().manual_seed(0)
    places = [(level, width) for level, width in (("0.2", 64), ("1.1", 128), ("1.3", 128))]
    names = [f"down_blocks.{place}.attention.attn" for place, _ in places]
    names += [f"up_blocks.0.{n}.attention.attn" for n in (1, 3, 5)] + ["up_blocks.1.2.attention.attn"]
    tensors: dict[str, Tensor] = {}
    weights = {name: tensor.clone() for name, tensor in stage_c.state_dict().items()}
    for i, name in enumerate(name for attn in names for name in (f"{attn}.out_proj.weight", f"{attn}.in_proj_weight")):
        rows, columns = weights[name].shape
        up, down = (torch.randn(*shape, generator=generator) * 0.2 for shape in ((rows, 4), (4, columns)))
        tensors |= {f"weights.{i}.lora_up": up, f"weights.{i}.lora_down": down}
        weights[name] += up @ down / 4
    files.save(tmp_path / "official.safetensors", tensors)
    deltas = Adapter.load(tmp_path / "official.safetensors").read({"stage_c": stage_c}, never).deltas["stage_c"]
    own = with_adapter(stage_c, deltas, predict)
    stage_c.load_state_dict(weights)
    torch.testing.assert_close(own, predict(stage_c), rtol=1e-5, atol=1e-5)


def test_other_modules_in_an_official_file(stage_c: nn.Module, tmp_path: Path, trained: Callable[..., Deltas]) -> None:
    deltas = trained(stage_c, filters=("mapper",))
    path = save(tmp_path / "own.safetensors", "official", Content({"stage_c": deltas}), {"stage_c": stage_c})
    found = Adapter.load(path).read({"stage_c": stage_c}, never).deltas["stage_c"]
    assert set(found.by_site) == set(deltas.by_site)
    assert next(iter(found.by_site)) == "clip_txt_mapper"  # what maps conditions is registered first there
    files.save(tmp_path / "theirs.safetensors", files.load(path))
    with pytest.raises(InputError, match=r"14 modules with .attn in their names, and the file \d+ layers"):
        Adapter.load(tmp_path / "theirs.safetensors").read({"stage_c": stage_c}, never)
    given = Adapter.load(tmp_path / "theirs.safetensors", filters=["mapper"])
    assert set(given.read({"stage_c": stage_c}, never).deltas["stage_c"].by_site) == set(deltas.by_site)


def test_the_text_tower_beside_a_stage(
    stage_c: nn.Module, tower: TextTower, tmp_path: Path, predict: Predict, trained: Callable[..., Deltas]
) -> None:
    networks = {"stage_c": stage_c, "text": tower}
    deltas = {"stage_c": trained(stage_c), "text": trained(tower, filters=("self_attn",))}
    for form, name in (
        ("onetrainer", "lora_prior_te_text_model_encoder_layers_1_self_attn_q_proj"),
        ("kohya", "lora_te_text_model_encoder_layers_1_self_attn_q_proj"),
        ("comfy", "text_encoders.clip_g.transformer.text_model.encoder.layers.1.self_attn.q_proj"),
    ):
        path = save(tmp_path / f"{form}.safetensors", form, Content(deltas), networks)
        assert f"{name}.lora_up.weight" in files.load(path)
        found = Adapter.load(path).read(networks, never).deltas
        for role, network in networks.items():
            expected = with_adapter(network, deltas[role], predict)
            torch.testing.assert_close(with_adapter(network, found[role], predict), expected, rtol=1e-5, atol=1e-5)
    for form in ("peft", "official"):
        with pytest.raises(InputError, match="text"):
            save(tmp_path / "no.safetensors", form, Content(deltas), networks)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_peft_itself_reads_and_writes_it(
    kind: str, small_networks: ModuleType, tmp_path: Path, predict: Predict, trained: Callable[..., Deltas]
) -> None:
    peft, diffusers = pytest.importorskip("peft"), pytest.importorskip("diffusers")
    from littlecascade.checkpoint.formats import FORMATS
    from littlecascade.checkpoint.formats.diffusers import write_config
    from littlecascade.models.config import to_dict

    config = small_networks.CONFIGS["stage_c"]
    ours = small_networks.build("stage_c").eval().requires_grad_(False)
    ours.load_state_dict(small_networks.weights("stage_c"))
    described = write_config("stage_c", to_dict(config))
    unet = diffusers.StableCascadeUNet(**{k: v for k, v in described.items() if k != "_class_name"})
    unet.load_state_dict(dict(FORMATS["diffusers"].naming("stage_c").encode(ours.state_dict())))
    given = torch.Generator().manual_seed(3)
    x, text = torch.randn(1, 6, 8, 8, generator=given), torch.randn(1, 5, 64, generator=given)
    pooled, image = torch.randn(1, 1, 12, generator=given), torch.zeros(1, 1, 8)
    time = torch.tensor([0.6])

    def own(deltas: Deltas) -> Tensor:
        with torch.no_grad(), Injection(ours, [Layer(deltas)]):
            return ours(x, time, **ours.encode_conditions(text, pooled, image))

    def theirs(network: nn.Module) -> Tensor:
        with torch.no_grad():
            return network.eval()(x, time, pooled, text, image).sample

    deltas = trained(ours, kind)
    folder = save(tmp_path / "peft", "peft", Content({"stage_c": deltas}), {"stage_c": ours}).parent
    wrapped = peft.PeftModel.from_pretrained(unet, str(folder))
    torch.testing.assert_close(theirs(wrapped), own(deltas), rtol=1e-4, atol=1e-5)

    other = peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=["to_q", "to_v", "to_out.0"], use_dora=kind == "dora", init_lora_weights=False
    )
    fresh = peft.get_peft_model(wrapped.unload(), other)
    fresh.save_pretrained(str(tmp_path / "saved"))
    adapter = Adapter.load(tmp_path / "saved")
    found = adapter.read({"stage_c": ours}, never).deltas["stage_c"]
    torch.testing.assert_close(own(found), theirs(fresh), rtol=1e-4, atol=1e-5)


def test_tokens_in_every_format_that_has_a_place_for_them(
    tower: TextTower, tokenizer: ClipTokenizer, tmp_path: Path
) -> None:
    def embed(learned: LearnedTokens) -> Tensor:
        with TokenInjection(tower, [learned]) as injection:
            known = tokenizer.extended(injection.names)
            return tower(torch.tensor([known.encode("a [fernando] and a snail")])).hidden

    learned = LearnedTokens.create([("[fernando]", "^dog"), ("^snail", None)], tokenizer, tower)
    learned.change.data.normal_(generator=torch.Generator().manual_seed(0))
    path = save(tmp_path / "o.safetensors", "official", Content({}, learned), {}, tokenizer)
    written = files.load(path)
    assert written["embeddings.embeddings"].shape == (len(learned.rows), 64)
    assert written["embeddings.indices"][0] == len(tokenizer.vocabulary)  # a new token comes after the vocabulary
    assert torch.equal(written["embeddings.embeddings"], learned.change)  # and its start is not stored
    found = Adapter.load(path).read_tokens(lambda: tokenizer)
    assert found is not None
    found.settle(tokenizer, tower.text_model.embeddings.token_embedding.weight)
    torch.testing.assert_close(embed(found), embed(learned))

    files.save(tmp_path / "theirs.safetensors", written)
    with pytest.raises(InputError, match="no names that go with them"):
        Adapter.load(tmp_path / "theirs.safetensors").read_tokens(lambda: tokenizer)
    named = Adapter.load(tmp_path / "theirs.safetensors", tokens=[("[fernando]", "^dog"), ("^snail", None)])
    found = named.read_tokens(lambda: tokenizer)
    assert found is not None
    assert found.rows[0].name == "[fernando]"
    with pytest.raises(InputError, match="no place for changes of tokens of the vocabulary"):
        save(tmp_path / "no.safetensors", "onetrainer", Content({}, learned), {})

    alone = LearnedTokens(learned.rows[:1], learned.change.detach()[:1], learned.settled[:1])
    for form, key in (("onetrainer", "bundle_emb.[fernando].clip_g"), ("embedding", "clip_g")):
        path = save(tmp_path / form / "fernando.safetensors", form, Content({}, alone), {})
        torch.testing.assert_close(files.load(path)[key], learned.vectors("[fernando]"))
        assert Adapter.load(path).form == form
        found = Adapter.load(path).read_tokens(never)
        assert found is not None
        torch.testing.assert_close(embed(found), embed(alone))
        back = save(tmp_path / form / "o.safetensors", "official", Content({}, found), {}, tokenizer)
        again = Adapter.load(back).read_tokens(lambda: tokenizer)
        assert again is not None
        again.settle(tokenizer, tower.text_model.embeddings.token_embedding.weight)
        torch.testing.assert_close(embed(again), embed(alone))


def test_what_does_not_fit_is_told(
    stage_c: nn.Module, stage_b: nn.Module, tmp_path: Path, trained: Callable[..., Deltas]
) -> None:
    content, path = Content({"stage_c": trained(stage_c)}), tmp_path / "a.safetensors"
    save(path, "kohya", content, {"stage_c": stage_c})
    with pytest.raises(InputError, match=r"a.safetensors does not fit: StageB has no lora_unet_down_blocks_0_2"):
        Adapter.load(path).read({"stage_b": stage_b}, never)
    tensors = files.load(path)
    first = next(name for name in tensors if "out_proj.lora_up" in name)
    files.save(tmp_path / "b.safetensors", {**tensors, first: torch.zeros(72, 3)})
    with pytest.raises(InputError, match="is 64 x 64, and the adapter's 72 x 64"):
        Adapter.load(tmp_path / "b.safetensors").read({"stage_c": stage_c}, never)
    files.save(tmp_path / "c.safetensors", {**tensors, first.replace("lora_up", "lora_mid"): torch.zeros(3, 3)})
    with pytest.raises(InputError, match=r"lora_mid\.weight is no tensor of a LoRA"):
        Adapter.load(tmp_path / "c.safetensors").read({"stage_c": stage_c}, never)
    files.save(tmp_path / "d.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(InputError, match=r"d\.safetensors is no adapter"):
        Adapter.load(tmp_path / "d.safetensors")
    with pytest.raises(InputError, match=r"There is no weight file .*Did you mean 'a\.safetensors'"):
        Adapter.load(tmp_path / "aa.safetensors")
    for options, wrong in (({"scale": float("nan")}, "Scale nan"), ({"steps": (0.5, 0.5)}, r"Steps \(0.5, 0.5\)")):
        with pytest.raises(InputError, match=wrong):
            Adapter.load(path, **options)
    with pytest.raises(InputError, match="Did you mean 'kohya'"):
        save(tmp_path / "x.safetensors", "koyha", content, {})
    for form, wrong in (("official", "LoRAs only"), ("peft", "holds lora and dora, not loha")):
        with pytest.raises(InputError, match=wrong):
            save(tmp_path / "x.safetensors", form, Content({"stage_c": trained(stage_c, "loha")}), {"stage_c": stage_c})


def test_a_recipe_finds_its_adapter_again(stage_c: nn.Module, tmp_path: Path, trained: Callable[..., Deltas]) -> None:
    path = save(tmp_path / "a.safetensors", "comfy", Content({"stage_c": trained(stage_c)}), {"stage_c": stage_c})
    adapter = Adapter.load(path, scale=0.5, steps=(0.1, 0.9), tokens=[("[x]", None)], filters=[".attn"])
    recipe = json.loads(json.dumps(adapter.recipe))
    assert re.fullmatch("[0-9a-f]{16}", recipe["digest"])
    assert Adapter.from_recipe(recipe) == adapter
    save(path, "comfy", Content({"stage_c": trained(stage_c, seed=9)}), {"stage_c": stage_c})
    with pytest.raises(InputError, match="has changed since"):
        Adapter.from_recipe(recipe)
    with pytest.raises(InputError, match="lacks something"):
        Adapter.from_recipe({"path": 3})


def test_a_number_format_can_be_chosen(stage_c: nn.Module, tmp_path: Path, trained: Callable[..., Deltas]) -> None:
    content = Content({"stage_c": trained(stage_c)})
    path = save(tmp_path / "a.safetensors", "kohya", content, {"stage_c": stage_c}, dtype=torch.bfloat16)
    kinds = {name.rpartition(".")[2]: tensor.dtype for name, tensor in files.load(path).items()}
    assert kinds == {"weight": torch.bfloat16, "alpha": torch.float32}
    found = Adapter.load(path).read({"stage_c": stage_c}, never).deltas["stage_c"]
    assert all(isinstance(part, LoRA) for delta in found.by_site.values() for part in getattr(delta, "deltas", [delta]))
