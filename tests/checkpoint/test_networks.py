from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from littlecascade.checkpoint import files
from littlecascade.checkpoint.networks import load_network, read_config, save_network
from littlecascade.checkpoint.recognise import recognise
from littlecascade.errors import InputError
from littlecascade.models.config import PreviewerConfig, to_dict
from littlecascade.models.previewer import Previewer

CONFIG = PreviewerConfig(latent_channels=4, widths=(8, 4), patch=2)


@pytest.fixture
def previewer() -> Previewer:
    network = Previewer(CONFIG)
    network.initialise(torch.Generator().manual_seed(0))
    return network.eval()


def test_a_network_comes_back_with_its_configuration(previewer: Previewer, tmp_path: Path) -> None:
    path = tmp_path / "previewer.safetensors"
    save_network("previewer", previewer, path, dtype=torch.float32, notes={"data": "made up"})
    loaded = load_network("previewer", path)
    assert loaded.config == read_config("previewer", path) == CONFIG
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    latents = torch.randn(2, 4, 3, 3)
    assert torch.equal(loaded(latents), previewer(latents))
    (part,) = recognise(path)
    assert part.notes == {"data": "made up"}


def test_weights_are_stored_in_the_given_format_and_loaded_in_another(previewer: Previewer, tmp_path: Path) -> None:
    path = tmp_path / "previewer.safetensors"
    save_network("previewer", previewer, path, dtype=torch.float16)
    stored = files.load(path)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16, torch.int64}
    assert load_network("previewer", path).dtype == torch.float16
    loaded = load_network("previewer", path, dtype=torch.float32)
    assert torch.equal(loaded.state_dict()["blocks.0.weight"], stored["blocks.0.weight"].float())


def test_another_role_is_refused(previewer: Previewer, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_network("previewer", previewer, path, dtype=torch.float32)
    with pytest.raises(InputError, match=r"x\.safetensors holds a previewer, not a compressor"):
        load_network("compressor", path)


def test_a_file_without_a_configuration_needs_one(previewer: Previewer, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    files.save(path, previewer.state_dict())
    assert read_config("previewer", path) is None
    with pytest.raises(InputError, match="does not say how its previewer is built"):
        load_network("previewer", path)
    assert load_network("previewer", path, config=CONFIG).config == CONFIG
    with pytest.raises(InputError, match=r"x\.safetensors does not fit Previewer"):
        load_network("previewer", path, config=PreviewerConfig(latent_channels=4, widths=(8, 4), patch=1))


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is not JSON"), (json.dumps(to_dict(CONFIG) | {"width": 3}), r"no 'width'\. Did you mean 'widths'\?")],
)
def test_a_configuration_that_cannot_be_read(previewer: Previewer, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.safetensors"
    files.save(path, previewer.state_dict(), {"role": "previewer", "config": text})
    with pytest.raises(InputError, match=said):
        load_network("previewer", path)
