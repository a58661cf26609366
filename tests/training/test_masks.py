"""Losses that count where a mask is white, from files to the error of a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from littlecascade.data.samples import Group, LooseFiles
from littlecascade.data.sources import find_samples
from littlecascade.errors import InputError
from littlecascade.training.config import StageBRun, StageCRun
from littlecascade.training.config_file import load_config, parse_config
from littlecascade.training.data import open_data
from littlecascade.training.draws import Draws
from littlecascade.training.encoders import scaled
from littlecascade.training.objective import make_objective
from littlecascade.training.run import TASKS

Values = dict[str, Any]
CPU = torch.device("cpu")
BATCH = range(4)


def unchanged(target: torch.Tensor, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """What is wanted where nothing is to be kept."""
    return target


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two grey pictures of 96 x 64 that are their own masks, by each of the two names, and one without a mask."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    levels = np.random.default_rng(0).integers(0, 256, (3, 8, 12), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    for name, pixels, ending in zip("abc", levels, ("-masklabel", ".mask", None), strict=True):
        image = Image.fromarray(pixels)
        image.convert("RGB").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a grey field", "utf-8")
        if ending is not None:
            image.resize((48, 32), Image.Resampling.BOX).save(folder / f"{name}{ending}.png")
    return folder


@pytest.fixture
def values(made_up: dict[str, Values], folder: Path, tmp_path: Path) -> Callable[..., Values]:
    own = {"output_path": str(tmp_path / "runs"), "webdataset_path": str(folder), "image_size": 64}
    return lambda kind="c", **more: made_up[kind] | own | {"masked_loss": True} | more


def test_a_mask_is_no_sample_of_its_own(folder: Path) -> None:
    samples = find_samples(str(folder))
    assert [sample.name for sample in samples] == ["a.png", "b.png", "c.png"]
    masks = [None if sample.mask is None else sample.mask.file for sample in samples]
    assert masks == [folder / "a-masklabel.png", folder / "b.mask.png", None]
    assert isinstance(samples[0].text, type(samples[0].picture))
    assert list(Group(LooseFiles([])).unused()) == []


def test_a_mask_is_cut_as_its_picture(values: Callable[..., Values]) -> None:
    """It has half the size here, and is enlarged: blocks of 8 pixels are the same again, but for their edges."""
    data = open_data(parse_config(StageCRun, values(cache_path=None)), CPU)
    rows = sorted(range(3), key=lambda row: data.cache.rows[row].name)
    pictures, masks = data.pictures(rows), data.masks(rows)
    assert masks.shape == (3, 1, 64, 64)
    inner = (..., slice(3, None, 8), slice(3, None, 8))  # 16 pixels are cut off on the left: whole blocks
    assert torch.allclose(masks[:2][inner], pictures[:2, :1][inner], atol=1.5 / 255)
    assert torch.equal(masks[2], torch.ones(1, 64, 64))


@pytest.mark.parametrize(("kind", "side"), [("c", 2), ("b", 16)])
def test_a_batch_says_how_much_each_place_counts(values: Callable[..., Values], kind: str, side: int) -> None:
    task = TASKS[kind].build(parse_config(TASKS[kind].config, values(kind, mask_floor=0.3, batch_size=3)))
    raw = sorted(range(3), key=lambda row: task.data.cache.rows[row].name)
    places = task.prepare(raw, Draws(0, range(3)))["places"]
    means = task.data.masks(raw).unflatten(2, (side, -1)).unflatten(4, (side, -1)).mean((3, 5))
    assert torch.allclose(places, means.clamp(min=0.3), atol=1e-6)
    assert bool((places == 1).all((1, 2, 3))[2])


@pytest.fixture
def error() -> Callable[..., torch.Tensor]:
    """The error of a network that says 0 where the noise is asked for: the noise's own mean square."""
    objective = make_objective(StageCRun.model_construct(loss_weight="uniform"), CPU)

    def measure(x0: torch.Tensor, places: torch.Tensor | None, seed: int = 0) -> torch.Tensor:
        draws = Draws(seed, range(len(x0)))
        return objective.loss(lambda x, time: torch.zeros_like(x), x0, draws, unchanged, places)[0]

    return measure


def test_the_error_is_the_mean_over_what_counts(error: Callable[..., torch.Tensor]) -> None:
    x0 = torch.randn(4, 3, 6, 8)
    draws = Draws(0, BATCH)
    draws.spread()
    noise = draws.normal(3, 6, 8)
    half = torch.zeros(4, 1, 6, 8)
    half[..., 3:] = 1.0
    assert torch.allclose(error(x0, half), noise[..., 3:].square().mean())
    assert torch.allclose(error(x0, None), noise.square().mean())
    for alike in (1.0, 0.25):
        assert torch.allclose(error(x0, torch.full((4, 1, 6, 8), alike)), error(x0, None))
    weights = torch.where(half > 0, 1.0, 0.1)
    by_hand = (noise.square() * weights).sum((1, 2, 3)) / (weights.sum((1, 2, 3)) * 3)
    assert torch.allclose(error(x0, weights), by_hand.mean())
    assert float(error(x0, torch.zeros(4, 1, 6, 8))) == 0.0


def test_what_is_masked_out_has_no_gradient() -> None:
    objective = make_objective(StageCRun.model_construct(loss_weight="uniform"), CPU)
    output = torch.randn(4, 3, 6, 8, requires_grad=True)
    places = torch.zeros(4, 1, 6, 8)
    places[:, :, 2:4] = 1.0
    objective.loss(lambda x, time: output, torch.randn(4, 3, 6, 8), Draws(0, BATCH), unchanged, places)[0].backward()
    assert output.grad is not None
    assert (output.grad != 0).all((0, 1, 3)).tolist() == [False, False, True, True, False, False]


def test_masks_that_do_not_fit_are_named_before_the_training(values: Callable[..., Values], folder: Path) -> None:
    config = parse_config(StageCRun, values())
    Image.new("L", (64, 64)).save(folder / "a-masklabel.png")
    with pytest.raises(InputError, match=r"mask of a\.png has another shape than the picture: 64 x 64, .* 96 x 64"):
        open_data(config, CPU)
    (folder / "a-masklabel.png").write_text("no picture", "utf-8")
    with pytest.raises(InputError, match=r"mask of a\.png is no picture"):
        open_data(config, CPU)


def test_masks_need_a_cache(values: Callable[..., Values], tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values()), "utf-8")
    with pytest.raises(InputError, match="masked_loss: masks are not read in a sweep; set cache to true"):
        load_config(StageCRun, path, ["cache=false"])


def test_stage_b_gets_latents_of_its_pictures_at_all_scales(values: Callable[..., Values], folder: Path) -> None:
    """As the compressor makes them of the picture scaled; a batch is as its samples alone, and each scale as likely."""
    config = parse_config(StageBRun, values("b", masked_loss=False, effnet_dropout=0.0, image_size=128, batch_size=3))
    task = TASKS["b"].build(config)
    columns = task.data.columns(range(3))
    names = [name for name in columns if name.startswith("semantic")]
    sides = [columns[name].shape[-1] for name in names]
    assert sides == [4, 3, 3, 2, 2]  # of 128, 112, 96, 80 and 64 pixels, in whole 32s
    noise = torch.zeros(3, 16, 4, 4)
    picked = dict.fromkeys(sides, 0)
    for start in range(0, 600, 3):
        batch = task._scaled(columns, noise, Draws(0, range(start, start + 3)))
        assert batch.shape == (3, 16, 16, 16)
        for row in range(3):
            corner = [float((batch[row, :, 0, 0] - columns[name][row, :, 0, 0]).abs().max()) for name in names]
            assert min(corner) < 1e-6
            picked[sides[int(np.argmin(corner))]] += 1
    for side, share in ((4, 0.2), (3, 0.4), (2, 0.4)):
        assert abs(picked[side] - 600 * share) < 4 * (600 * share * (1 - share)) ** 0.5
    whole = task.prepare([0, 1, 2], Draws(0, range(3)))["effnet"]
    alone = [task.prepare([row], Draws(0, [row]))["effnet"] for row in range(3)]
    assert torch.equal(whole, torch.cat(alone))
    assert len({float(scaled(torch.rand(1, 3, 64, 64), scale).shape[-1]) for scale in (0.5, 0.9)}) == 1


def test_stage_b_at_one_scale_is_given_the_latents_as_they_are(values: Callable[..., Values]) -> None:
    own = values("b", masked_loss=False, effnet_dropout=0.0, effnet_min_scale=1)
    task = TASKS["b"].build(parse_config(StageBRun, own))
    batch = task.prepare([0, 1, 2], Draws(0, range(3)))
    assert torch.equal(batch["effnet"], task.data.columns([0, 1, 2])["semantic"])


def test_pictures_without_a_caption_get_the_one_of_the_configuration(
    values: Callable[..., Values], folder: Path
) -> None:
    (folder / "c.txt").unlink()
    for default, said in ((None, ""), ("a red square", "a red square")):
        data = open_data(parse_config(StageCRun, values(default_caption=default)), CPU)
        rows = sorted(range(3), key=lambda row: data.cache.rows[row].name)
        assert data.captions(rows, Draws(0, range(3))) == ["a grey field", "a grey field", said]
        assert data.embed([said]).hidden.shape[0] == 1


@pytest.mark.parametrize(("cls", "default"), [(StageCRun, False), (StageBRun, True)])
def test_pyramid_noise_is_a_key_of_both_stages(cls: type, default: bool) -> None:
    """Its spatial mean varies far more than that of white noise, 1 / (16 x 16)."""
    assert make_objective(cls.model_construct(loss_weight="uniform"), CPU).pyramid is default
    for pyramid in (True, False):
        objective = make_objective(cls.model_construct(loss_weight="uniform", pyramid_noise=pyramid), CPU)
        noise = objective._noise(torch.zeros(64, 4, 16, 16), Draws(0, range(64)))
        assert (float(noise.mean((2, 3)).var()) > 10 / 256) is pyramid
