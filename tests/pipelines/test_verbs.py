"""Variation, editing, reconstruction, and latents on their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from littlecascade import Cascade, InputError, load_latents
from littlecascade.data.pixels import to_tensor


def test_a_variation_follows_the_mean_of_its_pictures(cascade: Cascade, gradient, noise) -> None:
    """What Stage C is told of the pictures, against the encoder's own embeddings."""
    pictures = [gradient(40, 30), noise(50, 64, 1)]
    one, other = (cascade.components.image.encode(to_tensor(picture)[None]) for picture in pictures)
    seen: list[torch.Tensor] = []
    hook = cascade.components.stage_c.clip_img_mapper.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    for weights in (None, [3, 1], [2, -1]):
        cascade.vary(pictures, "pizza", weights=weights, n=2, seed=0, steps=1)
    hook.remove()
    expected = [(one + other) / 2, (3 * one + other) / 4, 2 * one - other]
    for told, mean in zip(seen[::2], expected, strict=True):
        torch.testing.assert_close(told, mean.expand(2, -1, -1))
    assert not any(unconditional.any() for unconditional in seen[1::2])  # guidance leads away from no picture


def test_a_variation_depends_on_picture_prompt_and_seed(cascade: Cascade, gradient, noise) -> None:
    plain = cascade.vary(gradient(64, 64), seed=0)
    assert plain.images[0].size == (64, 64)
    again = cascade.vary(gradient(64, 64), seed=0)
    assert torch.equal(plain.latents, again.latents)
    for other in (
        cascade.vary(noise(64, 64, 0), seed=0),
        cascade.vary(gradient(64, 64), "pizza", seed=0),
        cascade.vary(gradient(64, 64), seed=1),
        cascade.generate("", seed=0),
    ):
        assert (other.latents - plain.latents).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 3000), (65, 64)])
def test_a_variation_takes_a_picture_of_any_size(cascade: Cascade, gradient, size: tuple[int, int]) -> None:
    assert cascade.vary(gradient(*size), seed=0, steps=1).images[0].size == (64, 64)


def test_pictures_that_can_not_be_mixed_are_one_clear_error(cascade: Cascade, gradient, tmp_path: Path) -> None:
    picture = gradient(64, 64)
    with pytest.raises(InputError, match="no picture to work from"):
        cascade.vary([])
    with pytest.raises(InputError, match="2 weights for 1 pictures"):
        cascade.vary(picture, weights=[1, 2])
    for weights in ([1, -1], [0, 0], [float("nan"), 1]):
        with pytest.raises(InputError, match="whose sum is above 0"):
            cascade.vary([picture, picture], weights=weights)
    with pytest.raises(InputError, match="There is no picture"):
        cascade.vary(tmp_path / "none.png")


def test_the_first_step_of_an_edit_sees_the_picture_under_noise_of_its_strength(cascade: Cascade, gradient) -> None:
    """x = alpha x0 + sigma noise of the same seed's drawing, with the schedule's level at time `strength`."""
    fresh, edited = _first_input(cascade, lambda: cascade.generate("pizza", seed=3)), {}
    latents = cascade.encode(gradient(64, 64)).latents
    for strength in (0.1, 0.5, 1.0):
        edited[strength] = _first_input(
            cascade, lambda strength=strength: cascade.edit(gradient(64, 64), "pizza", strength=strength, seed=3)
        )
        logsnr = cascade.components.parametrisation("stage_c").schedule.logsnr(torch.tensor(strength))
        alpha, sigma = logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()
        torch.testing.assert_close(edited[strength], alpha * latents + sigma * fresh, atol=1e-5, rtol=1e-5)


def _first_input(cascade: Cascade, action) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    hook = cascade.components.stage_c.embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    action()
    hook.remove()
    return seen[0][:1]


@pytest.mark.parametrize(("strength", "steps"), [(0.01, 1), (0.1, 1), (0.15, 2), (0.7, 7), (0.95, 10), (1.0, 10)])
def test_an_edit_takes_its_share_of_the_steps(cascade: Cascade, gradient, strength: float, steps: int) -> None:
    calls: list[tuple[str, int, int]] = []
    cascade.edit(
        gradient(64, 64), "pizza", strength=strength, steps=10, seed=0, callback=lambda *call: calls.append(call[:3])
    )
    assert [call for call in calls if call[0] == "c"] == [("c", step + 1, steps) for step in range(steps)]


def test_an_edit_keeps_the_shape_of_its_picture_or_takes_the_size_asked_for(cascade: Cascade, gradient) -> None:
    assert cascade.edit(gradient(400, 200), "pizza", seed=0).images[0].size == (88, 48)
    assert cascade.edit(gradient(400, 200), "pizza", seed=0, size=(70, 50)).images[0].size == (70, 50)
    assert cascade.edit(gradient(1, 1), "pizza", seed=0).images[0].size == (64, 64)
    with pytest.raises(InputError, match="30000x20 pixels is too long"):
        cascade.edit(gradient(30000, 20), "pizza", seed=0)


@pytest.mark.parametrize("strength", [0, -0.1, 1.01, float("nan")])
def test_a_strength_outside_0_to_1_is_one_clear_error(cascade: Cascade, gradient, strength: float) -> None:
    with pytest.raises(InputError, match=f"Strength {strength}"):
        cascade.edit(gradient(64, 64), "pizza", strength=strength)


@pytest.mark.parametrize("verb", ["vary", "edit"])
def test_the_picture_of_a_batch_is_the_one_drawn_alone(cascade: Cascade, gradient, grey_levels, verb: str) -> None:
    draw = getattr(cascade, verb)
    batch, alone = (draw(gradient(70, 60), "pizza", n=n, seed=seed) for n, seed in ((8, 5), (1, 8)))
    assert grey_levels(batch.images[3], alone.images[0]) <= 1
    assert grey_levels(batch.images[3], batch.images[4]) > 8


def test_reconstructions_come_in_the_pictures_shape_and_measured(cascade: Cascade, gradient, noise) -> None:
    result = cascade.reconstruct([gradient(200, 100), noise(400, 200, 0)])
    assert [image.size for image in (*result.images, *result.originals)] == [(88, 48)] * 4
    assert result.latents.shape == (2, 16, 2, 3)
    for original, image, found in zip(result.originals, result.images, result.metrics, strict=True):
        error = np.asarray(original, float) - np.asarray(image, float)
        assert found["psnr"] == pytest.approx(20 * np.log10(255) - 10 * np.log10((error**2).mean()), abs=1e-3)
        assert -1 < found["ssim"] < 1
        assert found["compression_factor"] == 3 * 88 * 48 / (16 * 2 * 3)
    assert result.side_by_side.size == (176, 96)
    assert result.side_by_side.crop((0, 48, 88, 96)).tobytes() == result.originals[1].tobytes()


def test_pictures_of_several_shapes_need_a_size(cascade: Cascade, gradient) -> None:
    pictures = [gradient(64, 64), gradient(64, 128)]
    with pytest.raises(InputError, match="several sizes"):
        cascade.reconstruct(pictures)
    assert [image.size for image in cascade.reconstruct(pictures, size=(64, 40)).originals] == [(64, 40)] * 2
    with pytest.raises(InputError, match="out of reach"):
        cascade.reconstruct(pictures, size=(4, 4))


def test_a_batch_of_reconstructions_equals_each_alone(cascade: Cascade, noise, grey_levels) -> None:
    pictures = [noise(64, 64, seed) for seed in range(3)]
    together = cascade.reconstruct(pictures, seed=7)
    alone = cascade.reconstruct(pictures[2], seed=9)
    assert grey_levels(together.images[2], alone.images[0]) <= 1


def test_encoding_then_decoding_is_reconstruction(cascade: Cascade, noise, grey_levels, tmp_path: Path) -> None:
    picture = noise(64, 72, 0)
    encoded = cascade.encode([picture, picture])
    assert encoded.latents.shape == (2, 16, 3, 2)
    assert encoded.images[0].tobytes() == picture.tobytes()
    encoded.save_latents(tmp_path / "two.safetensors")
    decoded = cascade.decode(load_latents(tmp_path / "two.safetensors"), size=(64, 72), seed=4)
    whole = cascade.reconstruct(picture, size=(64, 72), seed=4)
    assert grey_levels(decoded.images[0], whole.images[0]) <= 1
    assert torch.equal(decoded.latents, encoded.latents)


def test_encode_gives_one_latent_per_32_pixels(cascade: Cascade) -> None:
    assert cascade.encode([Image.new("RGB", (70, 33))] * 2).latents.shape == (2, 16, 2, 3)
    with pytest.raises(InputError, match="several sizes"):
        cascade.encode([Image.new("RGB", (64, 64)), Image.new("RGB", (64, 32))])


def test_decode_follows_the_latents_or_the_size(cascade: Cascade) -> None:
    latents = torch.randn(2, 16, 2, 3, generator=torch.Generator().manual_seed(0))
    assert [image.size for image in cascade.decode(latents).images] == [(96, 64)] * 2
    assert cascade.decode(latents, size=(90, 60)).images[0].size == (90, 60)
    assert cascade.decode(latents, size=(48, 32)).images[0].size == (48, 32)
    with pytest.raises(InputError, match=r"\(N, 16, h, w\)"):
        cascade.decode(latents[0])


def test_a_file_of_something_else_holds_no_latents(model_folder: Path) -> None:
    with pytest.raises(InputError, match="holds no latents"):
        load_latents(model_folder / "previewer.safetensors")


def test_decoding_draws_what_generating_drew(cascade: Cascade, grey_levels) -> None:
    """But for the pooled prompt, which Stage B reads too: without its mapper the pictures are the same."""
    mapper = cascade.components.stage_b.clip_mapper
    kept = mapper.weight.data.clone()
    mapper.weight.data.zero_()
    drawn = cascade.generate("pizza", seed=3, size=(60, 58))
    decoded = cascade.decode(drawn.latents, size=(60, 58), seed=3)
    mapper.weight.data.copy_(kept)
    assert grey_levels(drawn.images[0], decoded.images[0]) <= 1


def test_official_geometry_end_to_end(cascade: Cascade, monkeypatch: pytest.MonkeyPatch, gradient) -> None:
    """With 42.67 pixels per latent the compressor reads a smaller picture, and the drawn one has the size asked for."""
    from dataclasses import replace

    monkeypatch.setattr(cascade, "drawing", replace(cascade.drawing, image_size=128, compression=42.67))
    result = cascade.reconstruct([gradient(128, 128)] * 4)
    assert result.latents.shape == (4, 16, 3, 3)
    assert [image.size for image in result.images] == [(128, 128)] * 4
    assert result.metrics[0]["side_factor"] == pytest.approx(42.67, abs=0.01)
    assert cascade.edit(gradient(100, 128), "pizza", seed=0).latents.shape == (1, 16, 4, 3)
