from __future__ import annotations

from pathlib import Path

import pytest
import torch

from littlecascade.checkpoint.networks import save_network
from littlecascade.errors import InputError
from littlecascade.models.stage_c import StageC
from littlecascade.presets import TINY
from littlecascade.training.config import StageARun, StageCRun, parse_config
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
