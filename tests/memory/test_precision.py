from __future__ import annotations

import pytest
import torch
from torch import nn

from littlecascade.errors import InputError
from littlecascade.memory import precision
from littlecascade.memory.precision import cast, choose_device, choose_dtype


def test_a_name_is_its_format() -> None:
    assert choose_dtype("float32", "cpu") == torch.float32
    assert choose_dtype("bfloat16", "cpu") == torch.bfloat16


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, torch.float32), (1.4, torch.float32), (1.6, torch.bfloat16)])
def test_auto_takes_bfloat16_where_it_is_clearly_faster(ratio: float, expected: torch.dtype, monkeypatch) -> None:
    monkeypatch.setattr(precision, "_matmul_time", {torch.float32: ratio, torch.bfloat16: 1.0}.get)
    assert choose_dtype("auto", "cpu") == expected


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'bfloat61'; known: .* Did you mean 'bfloat16'\?"):
        choose_dtype("bfloat61", "cpu")
    with pytest.raises(InputError, match=r"'cuad'; .* Did you mean 'cuda'\?"):
        choose_device("cuad")


def test_a_missing_gpu_is_told(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="No CUDA device"):
        choose_device("cuda")


def test_cast_keeps_batch_normalisation_in_float32_and_what_is_trained() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    module[0].bias.requires_grad_(False)
    assert cast(module, torch.bfloat16) is module
    assert {name: tensor.dtype for name, tensor in module.state_dict().items()} == {
        "0.weight": torch.bfloat16,
        "0.bias": torch.bfloat16,
        "1.weight": torch.float32,
        "1.bias": torch.float32,
        "1.running_mean": torch.float32,
        "1.running_var": torch.float32,
        "1.num_batches_tracked": torch.int64,
    }
    assert [parameter.requires_grad for parameter in module.parameters()] == [True, False, True, True]
    assert module(torch.zeros(2, 3, 1, 1, dtype=torch.bfloat16)).isfinite().all()
