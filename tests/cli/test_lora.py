from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import torch
from PIL import Image

from littlecascade.adapters.files import Adapter, Content, save
from littlecascade.adapters.injection import Deltas
from littlecascade.adapters.tokens import LearnedTokens
from littlecascade.checkpoint import files
from littlecascade.checkpoint.places import packaged
from littlecascade.cli.main import main
from littlecascade.cli.parser import lora
from littlecascade.conditioning.text import TextEncoder
from littlecascade.pipelines.adapting import preset_outlines
from littlecascade.recipe import read_recipe

TINY_C = packaged("tiny") / "stage_c.safetensors"
SITE = "down_blocks.0.2.attention.attn.in_proj"


@pytest.fixture
def adapter(here: Path) -> str:
    """An official file for the shipped weights, with a new token."""
    networks = preset_outlines("tiny")
    generator = torch.Generator().manual_seed(0)
    real = type(networks["stage_c"])(networks["stage_c"].config)
    deltas = Deltas.create(real, rank=2, generator=generator)
    for parameter in deltas.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    text = TextEncoder.load(packaged("tiny") / "text")
    tokens = LearnedTokens.create([("[thing]", "^dog</w>")], text.tokenizer, text.tower)
    tokens.change.data += torch.randn(tokens.change.shape, generator=generator)
    save(here / "dog.safetensors", "official", Content({"stage_c": deltas}, tokens), networks, text.tokenizer)
    return "dog.safetensors"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("dog.safetensors", ("dog.safetensors", 1.0, (0.0, 1.0))),
        ("a/dog.safetensors:-.5", ("a/dog.safetensors", -0.5, (0.0, 1.0))),
        (r"C:\loras\dog.safetensors", (r"C:\loras\dog.safetensors", 1.0, (0.0, 1.0))),
        (r"C:\loras\dog.safetensors:2", (r"C:\loras\dog.safetensors", 2.0, (0.0, 1.0))),
        (r"C:/dog.safetensors:0.8:0.2-0.5", ("C:/dog.safetensors", 0.8, (0.2, 0.5))),
        ("dog:1.safetensors", ("dog:1.safetensors", 1.0, (0.0, 1.0))),
    ],
)
def test_file_scale_and_range(text: str, parts: tuple) -> None:
    assert lora(text) == parts


def test_a_range_that_is_none() -> None:
    with pytest.raises(ArgumentTypeError, match="not an interval"):
        lora("dog.safetensors:1:0.5-0.2")


def test_drawing_with_it_and_again(draw, adapter: str) -> None:
    words = ("generate", "a [thing]", "--seed", "1")
    (path,) = draw(*words, "--lora", f"{adapter}:0.7:0-0.9", "-o", "one.png")
    stored = read_recipe(Path(path))["adapters"]
    assert [(one["path"], one["scale"], one["steps"]) for one in stored] == [(adapter, 0.7, [0.0, 0.9])]
    (again,) = draw("generate", "--from", path, "-o", "again.png")
    (plain,) = draw("generate", "--from", path, "--lora", f"{adapter}:0", "-o", "plain.png")
    one, same, other = (Image.open(name).tobytes() for name in (path, again, plain))
    assert one == same
    assert one != other


def test_showing_it(adapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lora", "show", adapter]) == 0
    facts = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert {name: text.strip() for name, text in facts.items() if name not in ("file", "digest")} == {
        "format": "official",
        "kind": "lora",
        "rank": "2",
        "alpha": "1",
        "modules": "12 of stage_c",
        "fits": "stage_c of tiny",
        "tokens": "[thing]",
    }


def test_converting_it_there_and_back(adapter: str, fail) -> None:
    chain = [("onetrainer", "a"), ("official", "b"), ("kohya", "c"), ("comfy", "d")]
    source = adapter
    for form, name in chain:
        assert main(["lora", "convert", source, f"{name}.safetensors", "--to", form]) == 0
        source = f"{name}.safetensors"
    networks = preset_outlines("tiny")
    one, last = (Adapter.load(path).read_deltas(networks)["stage_c"].by_site[SITE] for path in (adapter, source))
    torch.testing.assert_close(last.matrix(torch.empty(1152, 384)), one.matrix(torch.empty(0)))
    text = TextEncoder.load(packaged("tiny") / "text")
    vectors = files.load("d.safetensors")["bundle_emb.[thing].clip_g"]
    dog = text.tower.text_model.embeddings.token_embedding.weight[text.tokenizer.vocabulary["dog</w>"]]
    stored = files.load(adapter)["embeddings.embeddings"]
    torch.testing.assert_close(vectors, dog.float() + stored)
    assert "exists already" in fail("lora", "convert", adapter, "a.safetensors", "--to", "kohya")
    assert "no place for tokens" in fail("lora", "convert", adapter, "p", "--to", "peft")
    assert main(["lora", "convert", adapter, "p", "--to", "peft", "--without-tokens"]) == 0
    assert sorted(path.name for path in Path("p").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_names_that_an_official_file_lacks(adapter: str, fail, capsys: pytest.CaptureFixture[str]) -> None:
    files.save("bare.safetensors", files.load(adapter))
    assert "--token" in fail("generate", "a [thing]", "--lora", "bare.safetensors")
    assert (
        main(["lora", "convert", "bare.safetensors", "x.safetensors", "--to", "comfy", "--token", "[thing]=^dog</w>"])
        == 0
    )
    assert "bundle_emb.[thing].clip_g" in files.load("x.safetensors")
    capsys.readouterr()
    assert main(["lora", "show", "bare.safetensors"]) == 0
    assert "whose names are not in the file" in capsys.readouterr().out


def test_merging_and_extracting(adapter: str, fail, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lora", "merge", str(TINY_C), "merged.safetensors", "--lora", f"{adapter}:0.5"]) == 0
    out, err = capsys.readouterr()
    assert (out, "tokens of dog.safetensors stay" in err) == ("merged.safetensors\n", True)
    base, merged = files.load(TINY_C), files.load("merged.safetensors")
    delta = Adapter.load(adapter).read_deltas(preset_outlines("tiny"))["stage_c"].by_site[SITE]
    name = SITE + "_weight"
    expected = (base[name].float() + 0.5 * (delta.up @ delta.down) * 0.5).to(base[name].dtype)
    assert torch.equal(merged[name], expected)
    assert files.metadata("merged.safetensors")["config"] == files.metadata(TINY_C)["config"]
    assert main(["lora", "extract", str(TINY_C), "merged.safetensors", "out.safetensors", "--rank", "2"]) == 0
    assert "out.safetensors holds" in capsys.readouterr().out
    assert Adapter.load("out.safetensors").read_deltas(preset_outlines("tiny"))["stage_c"].by_site[SITE].rank == 2
    assert "works in all steps" in fail("lora", "merge", str(TINY_C), "m.safetensors", "--lora", f"{adapter}:1:0-0.5")
    stage_b = str(TINY_C.with_name("stage_b.safetensors"))
    assert "changes stage_c, which is not in" in fail("lora", "merge", stage_b, "m.safetensors", "--lora", adapter)
    assert "not of one network" in fail("lora", "extract", str(TINY_C), stage_b, "m.safetensors")


def test_what_fits_nothing_is_told(here: Path, fail) -> None:
    stem = "lora_unet_down_blocks_0_2_attention_attn_to_q"
    files.save(
        "odd.safetensors", {f"{stem}.lora_up.weight": torch.ones(7, 1), f"{stem}.lora_down.weight": torch.ones(1, 7)}
    )
    assert "odd.safetensors fits no network of a named size (tiny, lite, full)" in fail(
        "lora", "show", "odd.safetensors"
    )
    assert "is 384 x 384" not in fail("generate", "x", "--lora", "none.safetensors")
    assert "There is no weight file" in fail("generate", "x", "--lora", "none.safetensors")
