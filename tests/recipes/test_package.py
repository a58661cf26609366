"""Packaging weights and drawing sheets, over made-up runs."""

from __future__ import annotations

import importlib
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from littlecascade.checkpoint import files
from littlecascade.checkpoint.networks import ROLES, save_network
from littlecascade.conditioning import tokenizer
from littlecascade.conditioning.clip import TextTower, VisionTower
from littlecascade.conditioning.image import ImageEncoder
from littlecascade.conditioning.text import TextEncoder
from littlecascade.errors import InputError
from littlecascade.pipelines.model import Model
from littlecascade.presets import TINY

RECIPE = Path(__file__).parents[2] / "recipes" / "emoji"
EXPORTS = {"stage_a": "stage_a_decoder", "stage_b": "stage_b", "stage_c": "stage_c", "compressor": "compressor"}


@pytest.fixture(scope="module")
def recipe():
    """The recipe's scripts; afterwards their plain names are free again."""
    names, known = ("package", "sheets"), set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in set(names) - known:
        sys.modules.pop(name, None)


@pytest.fixture
def runs(tmp_path, recipe, monkeypatch) -> Path:
    """Seven finished runs whose networks hold small random weights."""
    monkeypatch.setattr(recipe.package, "LARGEST", 100_000_000)
    folder = tmp_path / "runs"
    for role, run in (EXPORTS | {"previewer": "compressor"}).items():
        network = ROLES[role].network(getattr(TINY, role))
        network.initialise(torch.Generator().manual_seed(0))
        save_network(role, network, folder / run / "export" / ROLES[role].file, dtype=torch.float16)
    torch.manual_seed(0)
    words = tokenizer.train(["a red apple"] * 9, 516)
    TextEncoder(TextTower(TINY.text), words).save(folder / "text" / "export", torch.float16)
    ImageEncoder(VisionTower(TINY.image)).save(folder / "image" / "export", torch.float16)
    for run in recipe.package.RUNS:
        (folder / run.folder).mkdir(exist_ok=True)
        rows = [{"step": 10, "seconds": 30.0, "psnr": 9.0}, {"step": 16, "seconds": 50.0, "psnr": 12.0}]
        (folder / run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        (folder / run.folder / "config.yaml").write_text("batch_size: 8\nprecision: float32\n", "utf-8")
    (folder / "data").mkdir()
    (folder / "data" / "ATTRIBUTION.md").write_text("# Attribution\n\nBy hand.\n", "utf-8")
    return folder


def test_a_package_holds_everything_and_draws(recipe, runs, tmp_path):
    out = tmp_path / "weights" / "tiny"
    size = recipe.package.package(runs, out, None, "an abacus")
    model = Model.find(str(out))
    assert model.drawing == TINY.drawing
    assert size == sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert {path.name for path in out.parent.iterdir()} == {"tiny"}
    card = (out / "MODEL_CARD.md").read_text("utf-8")
    assert "an abacus" in card
    assert "By hand." in card
    assert "| stage_c | 16 | 8 | 128 | float32 | 0.17 |" in card  # 10 x 30 s + 6 x 50 s
    assert "| in all |  |  |  |  | 1.17 |" in card
    assert "littlecascade train c recipes/emoji/stage_c.yaml" in card
    assert "Not measured yet" in card


def test_the_card_takes_figures_of_these_weights_only(recipe, runs, tmp_path):
    out = tmp_path / "tiny"
    recipe.package.package(runs, out, None, "an abacus")
    model = Model.find(str(out))
    report = {"digest": model.digest, "quick": False, "seed": 0, "table": "| all | well |"}
    (tmp_path / "quality.json").write_text(json.dumps(report), "utf-8")
    recipe.package.package(runs, out, tmp_path / "quality.json", "an abacus")
    assert "| all | well |" in (out / "MODEL_CARD.md").read_text("utf-8")
    (tmp_path / "quality.json").write_text(json.dumps(report | {"digest": "0"}), "utf-8")
    with pytest.raises(InputError, match="digest 0"):
        recipe.package.package(runs, out, tmp_path / "quality.json", "an abacus")
    assert "| all | well |" in (out / "MODEL_CARD.md").read_text("utf-8")


def test_what_is_missing_is_listed_and_nothing_written(recipe, runs, tmp_path, capsys):
    (runs / "stage_b" / "export" / "stage_b.safetensors").unlink()
    (runs / "text" / "export" / "tokenizer.json").unlink()
    assert recipe.package.main(["--runs", str(runs), "--out", str(tmp_path / "tiny")]) == 1
    error = capsys.readouterr().err
    assert "stage_b.safetensors" in error
    assert "tokenizer.json" in error
    assert not (tmp_path / "tiny").exists()


def test_other_precisions_and_too_much_are_refused(recipe, runs, tmp_path, monkeypatch):
    path = runs / "stage_a_decoder" / "export" / "stage_a.safetensors"
    files.save(path, {name: tensor.float() for name, tensor in files.load(path).items()}, files.metadata(path))
    with pytest.raises(InputError, match=r"stage_a\.safetensors holds F32"):
        recipe.package.package(runs, tmp_path / "tiny", None, "")
    monkeypatch.setattr(recipe.package, "LARGEST", 60_000)
    with pytest.raises(InputError, match="more than 0 MB"):
        recipe.package.package(runs, tmp_path / "tiny", None, "")
    assert not (tmp_path / "tiny").exists()


def test_the_contact_sheet_has_48_different_prompts(recipe):
    prompts = recipe.sheets.prompts()
    assert len(prompts) == len(set(prompts)) == 48


def test_sheets_are_laid_out_in_rows(recipe):
    pictures = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    sheet = recipe.sheets.lay_out(pictures, None, 2)
    assert sheet.size == (2 * 30 + 10, 2 * 30 + 10)
    assert [sheet.getpixel(place) for place in ((20, 20), (50, 20), (20, 50), (50, 50))] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
    ]
    assert recipe.sheets.lay_out(pictures, ["a", "b", "c"], 2).height > sheet.height


def test_png_gets_fewer_colours_until_it_is_small(recipe, monkeypatch):
    noise = Image.effect_noise((64, 64), 100).convert("RGB")
    assert Image.open(io.BytesIO(recipe.sheets.small_png(noise))).mode == "P"
    whole = len(recipe.sheets.small_png(noise))
    monkeypatch.setattr(recipe.sheets, "LARGEST", whole - 1)
    assert len(recipe.sheets.small_png(noise)) < whole


def test_curves_are_one_well_formed_svg(recipe, runs):
    svg = ElementTree.fromstring(recipe.sheets.curves(runs))
    assert len(svg.findall(".//{*}polyline")) == 2  # psnr of Stage A and of the compressor; the others have no rows
    with pytest.raises(InputError, match="has metrics"):
        recipe.sheets.curves(runs / "nowhere")
