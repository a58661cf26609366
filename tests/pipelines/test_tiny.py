"""What only pictures can show, with the shipped weights. Bounds are wide: the weights are replaced by better ones."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from littlecascade import Cascade
from littlecascade.data.pixels import to_tensor
from littlecascade.pipelines.metrics import psnr


@pytest.fixture(scope="module")
def apple(tiny: Cascade) -> Image.Image:
    return tiny.generate("a red apple", seed=0).images[0]


@pytest.fixture(scope="module")
def fish(tiny: Cascade) -> Image.Image:
    return tiny.generate("a blue fish", seed=1).images[0]


def colour(image: Image.Image) -> torch.Tensor:
    return to_tensor(image).mean((1, 2))


def test_a_variation_resembles_its_picture_more_than_another(tiny: Cascade, apple, fish) -> None:
    """By the image encoder's embedding, over three seeds."""

    def embed(*images: Image.Image) -> torch.Tensor:
        return tiny.components.image.encode(torch.stack([to_tensor(image) for image in images]))[:, 0]

    one, other = embed(apple), embed(fish)
    for own, foreign, picture in ((one, other, apple), (other, one, fish)):
        drawn = embed(*tiny.vary(picture, n=3, seed=10).images)
        assert cosine_similarity(drawn, own).mean() > cosine_similarity(drawn, foreign).mean() + 0.1


def test_a_mixture_lies_between_its_pictures(tiny: Cascade, apple, fish) -> None:
    """More blue and less red, the more the blue picture weighs."""
    shares = [
        tiny.vary([apple, fish], weights=weights, n=3, seed=3, steps=10).images for weights in ([1, 0], [1, 1], [0, 1])
    ]
    red, _, blue = torch.stack([torch.stack([colour(image) for image in images]).mean(0) for images in shares]).T
    assert red[0] > red[2]
    assert blue[0] < blue[2]
    balance = (red - blue).tolist()
    assert balance[0] > balance[1] > balance[2]


def test_little_strength_leaves_the_picture_almost_as_reconstruction_does(tiny: Cascade, apple) -> None:
    (found,) = tiny.reconstruct(apple, seed=5).metrics
    edited = tiny.edit(apple, "a red apple", strength=0.05, seed=5).images[0]
    assert psnr(apple, edited) > found["psnr"] - 3


def test_more_strength_goes_further_from_the_picture(tiny: Cascade, apple) -> None:
    distances = [
        -psnr(apple, tiny.edit(apple, "a green apple", strength=strength, seed=3).images[0])
        for strength in (0.05, 0.5, 1)
    ]
    assert distances == sorted(distances)


def test_full_strength_is_as_free_as_a_fresh_drawing(tiny: Cascade, apple, fish) -> None:
    """Nothing of the picture is left but the hundredth part that the noisiest level lets through."""
    fresh = tiny.generate("a green apple", seed=3).images[0]
    edited = tiny.edit(fish, "a green apple", strength=1, seed=3).images[0]
    assert psnr(fresh, edited) > psnr(fish, edited) + 5


def test_a_reconstruction_is_close(tiny: Cascade, apple) -> None:
    result = tiny.reconstruct([apple, apple])
    assert result.latents.shape == (2, 16, 4, 4)
    for found in result.metrics:
        assert found["psnr"] > 20
        assert found["ssim"] > 0.8
        assert found["compression_factor"] == 192


def test_weights_of_words_count(tiny: Cascade) -> None:
    """A colour that is played down leaves its thing less of it."""

    def greenness(weight: float) -> float:
        drawn = tiny.generate(f"a (green:{weight}) heart", n=3, seed=2, steps=10).images
        return sum(float(colour(image)[1] - colour(image)[0]) for image in drawn)

    assert greenness(-0.5) < greenness(1)
