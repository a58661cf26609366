from __future__ import annotations

import pytest
import torch
from torch import nn

from littlecascade.checkpoint import assign, files
from littlecascade.errors import InputError


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_build_draws_nothing_and_uses_the_given_memory() -> None:
    original = network()
    state = torch.get_rng_state()
    built = assign.build(network, original.state_dict())
    assert torch.equal(torch.get_rng_state(), state)
    assert built[0].weight.data_ptr() == original[0].weight.data_ptr()
    assert built[0].weight.requires_grad
    x = torch.randn(5, 3)
    assert torch.equal(built(x), original(x))


def test_only_floating_tensors_change_dtype() -> None:
    built = assign.build(network, network().state_dict(), dtype=torch.float16)
    assert {tensor.dtype for tensor in built.parameters()} == {torch.float16}
    assert built[1].num_batches_tracked.dtype == torch.int64


def test_weights_mapped_from_a_file_can_be_trained_without_touching_it(tmp_path) -> None:
    files.save(tmp_path / "w.safetensors", network().state_dict())
    before = (tmp_path / "w.safetensors").read_bytes()
    built = assign.build(network, files.load(tmp_path / "w.safetensors"))
    built(torch.randn(5, 3)).sum().backward()
    torch.optim.SGD(built.parameters(), lr=0.1).step()
    assert (tmp_path / "w.safetensors").read_bytes() == before


def test_one_error_lists_missing_extra_and_reshaped_tensors() -> None:
    tensors = network().state_dict()
    del tensors["0.bias"]
    tensors["0.wieght"] = tensors["1.weight"]
    tensors["0.weight"] = torch.zeros(4, 5)
    with pytest.raises(InputError) as caught:
        assign.build(network, tensors, source="w.safetensors")
    assert str(caught.value) == (
        "w.safetensors does not fit Sequential: 1 of 7 tensors missing (0.bias); 1 extra (0.wieght); "
        "1 of another shape (0.weight (4, 5) where (4, 3) is needed)."
    )


def test_at_most_eight_names_of_a_kind_are_listed() -> None:
    with pytest.raises(InputError, match=r"10 of 10 tensors missing \(0.weight, .*3.bias, \.\.\.\)\.$"):
        assign.build(lambda: nn.Sequential(*(nn.Linear(1, 1) for _ in range(5))), {})
