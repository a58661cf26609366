"""What runs without data behaves, but for the values, as what runs with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from littlecascade import memory
from littlecascade.memory.dataless import FLOAT, GPU, dataless, lies_on
from littlecascade.memory.ledger import Ledger, Peak


def test_what_asks_for_a_value_is_given_one() -> None:
    with dataless():
        x = torch.rand(5, 3)
        assert float(x.sum()) == FLOAT
        assert int(torch.randint(9, ())) == 0
        assert bool(x.isfinite().all())
        assert x[torch.rand(5) < 0.5].shape == (5, 3)  # a mask takes all
        np.testing.assert_array_equal(x.numpy(), np.zeros((5, 3), dtype=np.float32))


def test_each_tensor_has_a_device_and_two_of_them_do_not_mix() -> None:
    with dataless():
        there = torch.zeros(3, device=GPU)
        assert there.to("cpu").device.type == "cpu"
        with pytest.raises(RuntimeError, match="same device"):
            _ = there + torch.zeros(3)


def test_modules_move_and_change_their_format() -> None:
    with dataless():
        module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to(GPU).half()
        assert {(own.device, own.dtype) for own in module.parameters()} == {(GPU, torch.float16)}
        assert module[1].running_mean.device == GPU


def test_attention_on_a_gpu_keeps_no_matrix() -> None:
    """Of 1024 positions in float16 it would be 1024 x 1024 x 2 bytes; what is kept is the result and a number each."""
    with dataless(), Ledger(lambda tensor: tensor.device == GPU) as ledger:
        own = torch.zeros(1, 1, 1024, 64, device=GPU, dtype=torch.float16, requires_grad=True)
        before = ledger.live
        result = F.scaled_dot_product_attention(own, own, own, dropout_p=0.1)
        assert ledger.live - before <= result.nbytes + 4 * 1024 + 256


def test_the_way_around_the_mode_of_fake_tensors_gives_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every result of a step on what plays a GPU, with a part of it on the CPU: shapes, strides, formats, devices."""

    def results() -> tuple[list[Any], list[Peak]]:
        seen: list[Any] = []

        def note(func: Any, args: Any, kwargs: Any, result: Any) -> None:
            tensors = [own for own in tree_leaves(result) if isinstance(own, torch.Tensor)]
            seen.extend(
                (str(func), own.shape, own.stride(), own.storage_offset(), own.dtype, own.fake_device)  # pyright: ignore
                for own in tensors
            )

        with dataless(), Ledger(lambda tensor: lies_on(GPU, tensor), on_call=note) as ledger, ledger.phase("step"):
            network = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Flatten(2), nn.LayerNorm(36), nn.Linear(36, 24))
            network = network.to(GPU).half()
            x = network(torch.rand(2, 4, 6, 6).to(GPU, torch.float16)).transpose(1, 2)
            one, other = F.pad(x, (1, 2)).clone()[:, None, 2:].split(11, dim=2)
            x = F.scaled_dot_product_attention(one, other, one).permute(1, 0, 2, 3)
            x = x.index_select(2, torch.tensor([1, 0]).to(GPU)) @ torch.zeros(11, 3, device=GPU, dtype=torch.float16)
            total = x.reshape(-1).float().sum() + x.detach().to("cpu", non_blocking=True).mean().to(GPU)
            total.backward()
            kept = network[0].weight.detach().cpu()
            kept.copy_(network[0].weight.grad.to("cpu"))
            torch.mul(kept, 2, out=torch.empty_like(kept))
        return seen, ledger.peaks

    ours, peaks = results()
    monkeypatch.setattr(memory.dataless, "_is_plain", lambda func: False)
    theirs, expected = results()
    assert len(ours) > 50
    assert ours == theirs
    assert peaks == expected


def test_afterwards_all_is_as_before() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    originals = (F.scaled_dot_product_attention, torch.Generator, torch.Tensor.numpy, nn.Module._apply)
    with dataless():
        torch.manual_seed(4)
        torch.rand(9)
    assert torch.equal(torch.rand(2), expected)
    assert (F.scaled_dot_product_attention, torch.Generator, torch.Tensor.numpy, nn.Module._apply) == originals
