from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from littlecascade.checkpoint import files
from littlecascade.checkpoint.networks import save_network
from littlecascade.errors import InputError
from littlecascade.models.stage_c import StageC
from littlecascade.presets import TINY
from littlecascade.training.config import StageARun, StageCRun
from littlecascade.training.config_adapters import LoraRun
from littlecascade.training.config_file import parse_config
from littlecascade.training.stock import Stock, precision_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BASE = {"experiment_id": "x", "lr": 1e-4, "batch_size": 1, "updates": 1, "webdataset_path": "none", "seed": 3}
STAGE_C = {**BASE, "text_path": "none", "effnet_checkpoint_path": "none"}


@pytest.mark.parametrize(
    ("bfloat16", "large", "small"), [(True, "bfloat16", "bfloat16"), (False, "float16", "float32")]
)
def test_the_precision_is_what_the_gpu_has(
    bfloat16: bool, large: str, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16)
    assert precision_of(parse_config(StageCRun, STAGE_C), CUDA) == large
    assert precision_of(parse_config(StageARun, BASE), CUDA) == small


def test_a_precision_that_is_given_is_kept() -> None:
    assert precision_of(parse_config(StageCRun, STAGE_C | {"precision": "float32"}), CUDA) == "float32"


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Stock.of(parse_config(StageCRun, STAGE_C)).device == CPU
    with pytest.raises(InputError, match="No CUDA device"):
        Stock.of(parse_config(StageCRun, STAGE_C | {"device": "cuda"}))


def test_training_leaves_the_file_it_began_from_alone(tmp_path: Path) -> None:
    network, path = StageC(TINY.stage_c), tmp_path / "stage_c.safetensors"
    save_network("stage_c", network, path, dtype=torch.float32)
    before = path.read_bytes()
    config = parse_config(StageCRun, STAGE_C | {"precision": "float32"})
    loaded = Stock(CPU).trainable("stage_c", TINY.stage_c, config, path)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    assert path.read_bytes() == before
    again = Stock(CPU).trainable("stage_c", TINY.stage_c, config, path)
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), again.parameters(), strict=True))


ON_FROZEN = STAGE_C | {"generator_checkpoint_path": "none", "rank": 1}


@pytest.fixture(scope="module")
def stage_c(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the size that the package ships, with made-up weights, none of them zero."""
    network, path = StageC(TINY.stage_c), tmp_path_factory.mktemp("base") / "stage_c.safetensors"
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 100
        torch.nn.init.normal_(parameter, std=fan**-0.5, generator=generator)
    save_network("stage_c", network, path, dtype=torch.float32)
    return path


def predict(path: Path, **settings: str) -> torch.Tensor:
    network = Stock(CPU).base("stage_c", TINY.stage_c, parse_config(LoraRun, ON_FROZEN | settings), path)
    generator = torch.Generator().manual_seed(1)
    conditions = network.encode_conditions(torch.randn(2, 5, TINY.stage_c.text_width, generator=generator))
    return network(torch.randn(2, 16, 4, 4, generator=generator), torch.tensor([0.2, 0.9]), **conditions)


@torch.no_grad()
@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"offload": "weights"}, 0.0),
        ({"base_weights": "int8"}, 0.02),
        ({"base_weights": "nf4"}, 0.3),
        ({"base_weights": "nf4", "offload": "all"}, 0.3),
        ({"precision": "bfloat16"}, 0.02),
        ({"precision": "float16"}, 0.002),
        ({"precision": "float16", "base_weights": "int8"}, 0.02),
    ],
    ids=lambda given: "-".join(given.values()) if isinstance(given, dict) else "",
)
def test_a_base_predicts_as_well_as_its_bits_allow(stage_c: Path, settings: dict[str, str], error: float) -> None:
    exact = predict(stage_c, precision="float32")
    found = predict(stage_c, **({"precision": "float32"} | settings))
    distance = float((found - exact).norm() / exact.norm())
    assert distance <= error
    assert distance >= error / 20


def test_a_base_that_does_not_fit_its_file_is_told(stage_c: Path, small_networks: ModuleType) -> None:
    network = StageC(small_networks.CONFIGS["stage_c"])
    path = stage_c.with_name("other.safetensors")
    save_network("stage_b", small_networks.build("stage_b"), path, dtype=torch.float32)
    with pytest.raises(InputError, match="holds a stage_b"):
        predict(path)
    files.save(path, network.state_dict())
    with pytest.raises(InputError, match=r"other\.safetensors does not fit StageC"):
        predict(path)


def test_what_is_drawn_depends_on_the_run_alone() -> None:
    config = parse_config(StageARun, BASE | {"precision": "bfloat16"})
    torch.manual_seed(0)
    one = Stock(CPU).fresh(lambda: torch.nn.Linear(3, 2), config)
    state = torch.get_rng_state()
    other = Stock(CPU).fresh(lambda: torch.nn.Linear(3, 2), config)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.weight, other.weight)
    assert one.weight.dtype == torch.bfloat16
    assert one.training
