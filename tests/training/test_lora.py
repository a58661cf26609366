from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from littlecascade.adapters.files import Adapter
from littlecascade.adapters.injection import Layer
from littlecascade.adapters.merge import merge
from littlecascade.checkpoint import files
from littlecascade.checkpoint.networks import load_network
from littlecascade.conditioning.text import TextEncoder
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.errors import InputError
from littlecascade.presets import TINY
from littlecascade.training.config_file import parse_config
from littlecascade.training.draws import Draws
from littlecascade.training.run import TASKS, train

Values = dict[str, Any]


@pytest.fixture
def values(made_up: dict[str, Values], stage_c_file: Path, tmp_path: Path) -> Values:
    """A LoRA on a made-up Stage C."""
    own = {
        "generator_checkpoint_path": str(stage_c_file),
        "output_path": str(tmp_path / "runs"),
        "rank": 2,
        "lora_alpha": 2,
        "lr": 0.01,
        "updates": 4,
        "ema_start_iters": 10,
    }
    return made_up["c"] | own


@pytest.fixture
def run(values: Values, tmp_path: Path) -> Callable[..., Path | None]:
    def start(name: str, max_minutes: float | None = None, **settings: Any) -> Path | None:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values | {"experiment_id": name} | settings), "utf-8")
        return train("lora", path, max_minutes=max_minutes)

    return start


def test_it_begins_as_the_base_and_trains_little(values: Values) -> None:
    lora = TASKS["lora"].build(parse_config(TASKS["lora"].config, values))
    base_values = {key: value for key, value in values.items() if key not in ("rank", "lora_alpha")}
    base = TASKS["c"].build(parse_config(TASKS["c"].config, base_values | {"dropout": 0.0}))
    raw, draws = lora.feed.take(0), range(4)
    one, other = (
        task.loss("lora", task.prepare(raw, Draws(0, draws)), Draws(0, draws, 1), 0.0) for task in (lora, base)
    )
    assert torch.equal(one.value, other.value)
    one.value.backward()
    trained = {
        name for phase in lora.phases for module in phase.modules.values() for name, _ in module.named_parameters()
    }
    attentions = sum(TINY.stage_c.trunk.down_depths) + sum(TINY.stage_c.trunk.up_depths)
    assert len(trained) == 2 * 2 * attentions  # up and down, for what goes into each attention and for what comes out
    assert all(parameter.grad is None for parameter in lora.network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"precision": "bfloat16", "gradient_checkpointing": True},
        {"base_weights": "nf4", "offload": "all"},
        {"train_tokens": [["[thing]", "^square</w>"], ["^red", None]]},
    ],
)
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    run: Callable[..., Any], tmp_path: Path, settings: Values
) -> None:
    whole = run("whole", **settings)
    assert run("parts", max_minutes=0.0, **settings) is None
    run("parts", **settings | {"updates": 2})
    parts = run("parts", **settings)
    states = [files.load(tmp_path / "runs" / name / "state.safetensors") for name in ("whole", "parts")]
    assert states[0].keys() == states[1].keys()
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []
    assert (whole / "whole.safetensors").read_bytes() == (parts / "parts.safetensors").read_bytes()
    assert not any("stage_c" in name or "channelwise.0.weight" in name for name in states[0] if "lora" not in name)
    with Image.open(tmp_path / "runs" / "whole" / "preview-000004.png") as sheet:
        assert sheet.size == (2 * 32, 2 * 32)  # two prompts, without and with the LoRA


@pytest.mark.slow
def test_what_is_written_is_what_was_trained(run: Callable[..., Any], values: Values, tmp_path: Path) -> None:
    folder = run("x", train_tokens=[["[thing]", "^square</w>"], ["^red", None]], updates=6)
    adapter = Adapter.load(folder / "x.safetensors")
    network = load_network("stage_c", Path(values["generator_checkpoint_path"]), dtype=torch.float32)
    content = adapter.read({"stage_c": network}, lambda: ClipTokenizer.load(values["text_path"]))
    state = files.load(tmp_path / "runs" / "x" / "state.safetensors")
    for name, delta in content.deltas["stage_c"].by_site.items():
        up, down = (state[f"ema.lora._deltas.{name.replace('.', '/')}.{factor}"] for factor in ("up", "down"))
        trained = up @ down  # lora_alpha is the rank here
        assert torch.allclose(delta.matrix(torch.empty(0)), trained, atol=2e-3 * float(trained.abs().max()))
    assert content.tokens is not None
    assert torch.equal(content.tokens.change.float(), state["ema.tokens.change"].half().float())
    assert content.tokens.change.abs().max() > 0
    assert files.load(folder / "x.safetensors")["weights.0.lora_down"].abs().max() > 0


@pytest.fixture
def values_b(values: Values, made_up: dict[str, Values], stage_b_file: Path) -> Values:
    """A LoRA on a made-up Stage B."""
    own = {name: values[name] for name in ("output_path", "rank", "lora_alpha", "lr", "updates", "ema_start_iters")}
    return made_up["b"] | own | {"generator_checkpoint_path": str(stage_b_file)}


def test_a_lora_of_stage_b_begins_as_the_base(values_b: Values) -> None:
    lora = TASKS["lora_b"].build(parse_config(TASKS["lora_b"].config, values_b))
    base_values = {key: value for key, value in values_b.items() if key not in ("rank", "lora_alpha")}
    base = TASKS["b"].build(parse_config(TASKS["b"].config, base_values | {"dropout": 0.0}))
    raw, draws = lora.feed.take(0), range(4)
    one, other = (
        task.loss("lora", task.prepare(raw, Draws(0, draws)), Draws(0, draws, 1), 0.0) for task in (lora, base)
    )
    assert torch.equal(one.value, other.value)
    one.value.backward()
    assert all(parameter.grad is None for parameter in lora.network.parameters())
    gradients = [delta.down.grad for delta in lora.changes[0].deltas.by_site.values()]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.slow
def test_a_lora_of_stage_b_is_written_as_it_was_trained(values_b: Values, tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text(yaml.safe_dump(values_b | {"experiment_id": "b"}), "utf-8")
    folder = train("lora_b", path)
    assert folder is not None
    network = load_network("stage_b", Path(values_b["generator_checkpoint_path"]), dtype=torch.float32)
    deltas = Adapter.load(folder / "b.safetensors").read_deltas({"stage_b": network})["stage_b"].by_site
    state = files.load(tmp_path / "runs" / "b" / "state.safetensors")
    for name, delta in deltas.items():
        up, down = (state[f"ema.lora._deltas.{name.replace('.', '/')}.{factor}"] for factor in ("up", "down"))
        assert torch.allclose(delta.matrix(torch.empty(0)), up @ down, atol=2e-3 * float((up @ down).abs().max()))


@pytest.mark.slow
def test_changes_of_the_text_tower_are_trained_and_written(
    run: Callable[..., Any], values: Values, tmp_path: Path
) -> None:
    settings = {"text_module_filters": ["q_proj", "v_proj"], "train_tokens": [["[thing]", "^square</w>"]]}
    folder = run("x", **settings, updates=6)
    encoder = TextEncoder.load(values["text_path"], torch.float32)
    network = load_network("stage_c", Path(values["generator_checkpoint_path"]), dtype=torch.float32)
    adapter = Adapter.load(folder / "x.safetensors")
    content = adapter.read({"stage_c": network, "text": encoder.tower}, lambda: encoder.tokenizer)
    assert content.deltas.keys() == {"stage_c", "text"}
    assert content.tokens is not None
    assert content.tokens.new == {"[thing]": 1}
    before = encoder.encode(["a red square"], chunks=1).hidden
    merged = merge(encoder.tower.state_dict(), encoder.tower, [Layer(content.deltas["text"])])
    encoder.tower.load_state_dict({name: merged[name] for name in merged})
    after = TextEncoder(encoder.tower, encoder.tokenizer).encode(["a red square"], chunks=1).hidden
    assert not torch.allclose(before, after, atol=1e-4)
    going_on = values | settings | {"lora_checkpoint_path": str(folder / "x.safetensors")}
    task = TASKS["lora"].build(parse_config(TASKS["lora"].config, going_on))
    assert torch.allclose(task.vocabulary.embed(**task.vocabulary.read(["a red square"]))[0], after, atol=1e-4)


def test_only_the_trained_words_change(values: Values) -> None:
    settings = values | {"train_tokens": [["[thing]", "^square</w>"], ["^red", None]]}
    task = TASKS["lora"].build(parse_config(TASKS["lora"].config, settings))
    vocabulary = task.vocabulary
    table = vocabulary.tower.text_model.embeddings.token_embedding.weight
    before = table.clone()
    encoder = TextEncoder.load(values["text_path"], torch.float32)

    def embed(text: str) -> torch.Tensor:
        return vocabulary.embed(**vocabulary.read([text]))[0]

    assert torch.allclose(embed("a blue square"), encoder.encode(["a blue square"], chunks=1).hidden, atol=1e-6)
    assert torch.allclose(embed("a [thing]"), embed("a square"), atol=1e-5)  # its start is that token's vector
    with torch.no_grad():
        vocabulary.tokens.change.add_(1.0)
    assert not torch.allclose(embed("a [thing]"), embed("a square"), atol=1e-2)
    assert not torch.allclose(embed("red"), encoder.encode(["red"], chunks=1).hidden, atol=1e-2)
    assert torch.allclose(embed("a blue square"), encoder.encode(["a blue square"], chunks=1).hidden, atol=1e-6)
    assert torch.equal(table, before)


@pytest.mark.slow
def test_it_goes_on_from_the_changes_of_another(run: Callable[..., Any], values: Values) -> None:
    path = run("x", updates=3) / "x.safetensors"
    first, second = (
        TASKS["lora"].build(parse_config(TASKS["lora"].config, values | more))
        for more in ({}, {"lora_checkpoint_path": str(path)})
    )
    stored = Adapter.load(path).read_deltas({"stage_c": first.network})["stage_c"].by_site
    for name, delta in second.changes[0].deltas.by_site.items():
        assert torch.allclose(delta.matrix(torch.empty(0)), stored[name].matrix(torch.empty(0)), rtol=1e-5)
        assert delta.alpha == values["lora_alpha"]
        assert all(factor.dtype == torch.float32 and factor.requires_grad for factor in delta.parameters())
    assert any(delta.matrix(torch.empty(0)).abs().max() > 0 for delta in second.changes[0].deltas.by_site.values())
    with pytest.raises(InputError, match=r"no LoRA to go on from here: .* rank"):
        TASKS["lora"].build(parse_config(TASKS["lora"].config, values | {"lora_checkpoint_path": str(path), "rank": 3}))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
def test_other_kinds_are_written_as_comfyui_reads_them(run: Callable[..., Any], kind: str) -> None:
    folder = run("x", lora_type=kind, updates=2)
    assert Adapter.load(folder / "x.safetensors").form in ("comfy", "kohya")


@pytest.mark.slow
def test_it_learns(values: Values) -> None:
    settings = values | {"rank": 8, "lora_alpha": 8, "module_filters": [".attn", ".channelwise"]}
    task = TASKS["lora"].build(parse_config(TASKS["lora"].config, settings))
    batch = task.prepare(task.feed.take(0), Draws(0, range(4)))
    optimizer = torch.optim.Adam(task.changes[0].deltas.parameters(), lr=3e-3)
    losses: list[float] = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = task.loss("lora", batch, Draws(0, range(4), 1), 0.0).value
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_mistakes_are_told_with_what_there_is(run: Callable[..., Any], values: Values) -> None:
    with pytest.raises(InputError, match=r"'\.atn' is in the name of no module .*there are "):
        run("x", module_filters=[".atn"])
    with pytest.raises(InputError, match=r"No token .* matches '\^zebra'"):
        run("x", train_tokens=[["[thing]", "^zebra"]])
    with pytest.raises(InputError, match="generator_checkpoint_path is missing"):
        run("x", generator_checkpoint_path=None)
    with pytest.raises(InputError, match="rank"):
        run("x", rank=0)


@pytest.mark.parametrize(("kind", "base"), [("lora", "c"), ("lora_b", "b")])
def test_what_a_lora_does_not_say_is_as_its_stage_has_it(kind: str, base: str) -> None:
    own, others = TASKS[kind].config.model_fields, TASKS[base].config.model_fields
    assert {name for name in others if own[name].default != others[name].default} == set()
