from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from littlecascade.conditioning.clip import TextConfig, TextTower
from littlecascade.conditioning.text import TextEncoder
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.errors import InputError

CONFIG = TextConfig(vocab_size=660, width=24, depth=2, heads=3, projection=10, positions=20)
LONG = "strawberries and cream under a purple umbrella, " * 4


@pytest.fixture
def encoder(tokenizer: ClipTokenizer) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(TextTower(CONFIG), tokenizer)


def test_equals_transformers_from_its_own_folder(tokenizer: ClipTokenizer, tmp_path: Path) -> None:
    """Saved by transformers as a whole CLIP model in shards, with both towers; read here, masked as diffusers does."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    text = {**sizes, "vocab_size": 660, "max_position_embeddings": 20, "eos_token_id": 659, "projection_dim": 10}
    vision = {**sizes, "image_size": 28, "patch_size": 14}
    whole = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=10))
    whole.save_pretrained(tmp_path, max_shard_size="40KB")
    tokenizer.save(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1

    reference = transformers.CLIPTextModelWithProjection.from_pretrained(tmp_path).eval()
    encode = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    prompts = ["a red apple", "", "kitty cat 🙂"]
    inputs = encode(prompts, padding="max_length", max_length=20, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = reference(**inputs, output_hidden_states=True)
        unmasked = reference(inputs.input_ids, output_hidden_states=True)
    ours = TextEncoder.load(tmp_path).encode(prompts)
    torch.testing.assert_close(ours.hidden, expected.hidden_states[-1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.pooled, expected.text_embeds[:, None], atol=1e-5, rtol=1e-5)
    ours = TextEncoder.load(tmp_path, mask_padding=False).encode(prompts)
    torch.testing.assert_close(ours.hidden, unmasked.hidden_states[-1], atol=1e-5, rtol=1e-5)


def test_saved_folder_is_read_by_transformers(encoder: TextEncoder, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    encoder.save(tmp_path)
    reference = transformers.CLIPTextModelWithProjection.from_pretrained(tmp_path).eval()
    ids, mask = encoder.tokenizer.collate([encoder.tokenizer.encode("a red apple")], 20)
    with torch.no_grad():
        expected = reference(ids, attention_mask=mask.long()).text_embeds
    torch.testing.assert_close(encoder.encode(["a red apple"]).pooled[:, 0], expected, atol=1e-5, rtol=1e-5)


def test_save_and_load_keep_everything(tokenizer: ClipTokenizer, tmp_path: Path) -> None:
    encoder = TextEncoder(TextTower(CONFIG), tokenizer, tokens=9)
    encoder.save(tmp_path)
    again = TextEncoder.load(tmp_path)
    assert (again.tokens, again.length, again.tower.config) == (9, 7, CONFIG)
    for ours, theirs in zip(encoder.encode(["a red apple"]), again.encode(["a red apple"]), strict=True):
        torch.testing.assert_close(ours, theirs)
    encoder.save(tmp_path, dtype=torch.float16)
    assert TextEncoder.load(tmp_path).encode([""]).hidden.dtype == torch.float16
    assert TextEncoder.load(tmp_path, dtype=torch.float32).encode([""]).hidden.dtype == torch.float32


def test_position_ids_of_older_files_are_passed_over(encoder: TextEncoder, tmp_path: Path) -> None:
    from littlecascade.checkpoint import files

    encoder.save(tmp_path)
    extra = {"text_model.embeddings.position_ids": torch.arange(20)[None], "logit_scale": torch.tensor(1.0)}
    files.save(tmp_path / "model.safetensors", encoder.tower.state_dict() | extra)
    torch.testing.assert_close(TextEncoder.load(tmp_path).encode(["a"]).hidden, encoder.encode(["a"]).hidden)


def test_a_batch_equals_its_prompts_alone(encoder: TextEncoder) -> None:
    prompts = ["a red apple", "", "a smiling kitty cat with heart eyes", "a red apple"]
    together = encoder.encode(prompts, batch_size=2)
    assert together.hidden.shape == (4, 20, 24)
    assert together.pooled.shape == (4, 1, 10)
    for row, prompt in enumerate(prompts):
        encoder.clear()
        alone = encoder.encode([prompt])
        torch.testing.assert_close(together.hidden[row], alone.hidden[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.pooled[row], alone.pooled[0], atol=1e-5, rtol=1e-5)


def test_a_long_prompt_is_used_whole(encoder: TextEncoder) -> None:
    count = encoder.chunks(LONG)
    assert count > 1
    long = encoder.encode([LONG])
    assert long.hidden.shape == (1, 20 * count, 24)
    parts = [encoder.tokenizer.decode(chunk) for chunk in encoder.tokenizer.chunks(LONG, 18)]
    expected = encoder.encode(parts)
    torch.testing.assert_close(long.hidden[0], expected.hidden.flatten(0, 1))
    torch.testing.assert_close(long.pooled[0], expected.pooled.mean(0))


def test_a_number_of_chunks_fills_and_cuts(encoder: TextEncoder) -> None:
    count = encoder.chunks(LONG)
    both = encoder.encode([LONG, ""], chunks=count)
    empty = encoder.encode([""])
    assert torch.equal(both.hidden[1], empty.hidden.expand(count, -1, -1).flatten(0, 1))
    assert torch.equal(both.pooled[1], empty.pooled[0])
    assert torch.equal(both.hidden[0], encoder.encode([LONG]).hidden[0])
    assert torch.equal(encoder.encode([LONG], chunks=1).hidden, both.hidden[:1, :20])


def test_the_cache_spares_runs_and_is_bounded(tokenizer: ClipTokenizer) -> None:
    encoder = TextEncoder(TextTower(CONFIG), tokenizer, cache_size=2)
    runs = []
    encoder.tower.register_forward_pre_hook(lambda _, inputs: runs.append(len(inputs[0])))
    first = encoder.encode(["a", "b"])
    assert torch.equal(encoder.encode(["b", "a"]).hidden, first.hidden.flip(0))
    assert runs == [2]
    encoder.encode(["a", "c"])  # drops b, used longest ago
    encoder.encode(["a", "c"])
    encoder.encode(["b"])
    assert runs == [2, 1, 1]
    encoder.clear()
    encoder.encode(["b"])
    assert runs == [2, 1, 1, 1]


def test_embeddings_can_be_trained_on(encoder: TextEncoder) -> None:
    """They are no inference tensors: a network that reads them can keep them for its backward pass."""
    weight = torch.ones(24, requires_grad=True)
    (encoder.encode(["a"]).hidden * weight).sum().backward()
    assert weight.grad is not None


def test_mistakes_are_told(encoder: TextEncoder, tokenizer: ClipTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="need 1, 2 chunks"):
        encoder.encode(["short", LONG])
    with pytest.raises(InputError, match="list"):
        encoder.encode([])
    with pytest.raises(InputError, match="list"):
        encoder.encode("a red apple")
    with pytest.raises(InputError, match="different models"):
        TextEncoder(TextTower(TextConfig(vocab_size=600, width=8, depth=1, heads=1, projection=4)), tokenizer)
    with pytest.raises(InputError, match="3 to 20"):
        TextEncoder(encoder.tower, tokenizer, tokens=77)
    with pytest.raises(InputError, match=r"no config\.json"):
        TextEncoder.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_transformers()), "utf-8")
    with pytest.raises(InputError, match=r"looked for model\.safetensors"):
        TextEncoder.load(tmp_path)
    torch.save({"encoder.weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="No tensor"):
        TextEncoder.load(tmp_path)
