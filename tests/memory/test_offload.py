from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from littlecascade.memory.offload import Ahead, Foresight, Lane, Shelf
from littlecascade.memory.parts import SMALLEST

CPU = torch.device("cpu")
DEVICES = [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]


def test_foresight_tells_the_way_there_from_the_way_back() -> None:
    """A step through blocks a, b, c: forwards, then backwards."""
    foresight: Foresight[str] = Foresight()
    assert [foresight.see(key) for key in "abccba"] == [None] * 6
    assert [foresight.see(key) for key in "abccba"][1:] == [*list("ccba"), "a"]


def test_foresight_follows_a_change() -> None:
    foresight: Foresight[int] = Foresight()
    for _ in range(3):
        guesses = [foresight.see(key) for key in (1, 2, 3)]
    assert guesses == [2, 3, 1]
    for _ in range(3):
        guesses = [foresight.see(key) for key in (1, 3)]
    assert guesses == [3, 1]


class Source:
    """Tensors by name, and which of them were read."""

    def __init__(self, device: torch.device) -> None:
        self.tensors = {name: torch.full((4,), float(ord(name))) for name in "abc"}
        self.reads: list[str] = []
        self.ahead: Ahead[str] = Ahead(Lane(device), self.read)

    def read(self, key: str) -> Sequence[Tensor]:
        self.reads.append(key)
        return [self.tensors[key]]


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_what_is_expected_is_read_once_and_before_it_is_taken(device: torch.device) -> None:
    source = Source(device)
    source.ahead.expect("b")
    assert source.reads == ["b"]
    (tensor,) = source.ahead.take("b")
    assert source.reads == ["b"]
    assert tensor.device.type == device.type
    assert tensor.data_ptr() != source.tensors["b"].data_ptr()
    assert tensor.tolist() == [98.0] * 4
    source.ahead.expect("a")
    assert source.ahead.take("c")[0].tolist() == [99.0] * 4  # it was another
    assert source.ahead.take("a")[0].tolist() == [97.0] * 4
    assert source.reads == ["b", "a", "c", "a"]
    source.ahead.expect(None)
    source.ahead.expect("a")
    source.ahead.forget()
    source.tensors["a"].zero_()
    assert source.ahead.take("a")[0].tolist() == [0.0] * 4


@pytest.mark.parametrize("device", [None, *DEVICES], ids=str)
def test_a_shelf_gives_what_was_put_last(device: torch.device | None) -> None:
    """Through several rounds, so that what comes ahead of its use is what was put on the shelf before."""
    shelf = Shelf(None if device is None else Lane(device))
    place = device or CPU
    for number, key in enumerate("abc"):
        assert key not in shelf
        large = torch.full((SMALLEST,), float(number), device=place)
        shelf.put(key, {"step": torch.zeros((), device=place), "large": large, "half": large.half()})
    for round in range(1, 4):
        for number, key in enumerate("abc"):
            tensors = shelf.take(key)
            assert all(tensor.device.type == place.type for tensor in tensors.values())
            assert float(tensors["step"]) == round - 1
            expected = number + 10 * (round - 1)
            for name in ("large", "half"):
                assert torch.equal(tensors[name], torch.full_like(tensors[name], expected))
            tensors["step"] += 1
            tensors["large"] += 10
            tensors["half"] = tensors["half"] + 10  # rules may change tensors or make new ones
            shelf.put(key, tensors)
    kept = {key: {name: float(tensor.max()) for name, tensor in own.items()} for key, own in shelf.everything().items()}
    assert kept == {key: {"step": 3, "large": 30 + n, "half": 30 + n} for n, key in enumerate("abc")}
    assert all(
        own["large"].device.type == "cpu" and own["half"].dtype == torch.half for own in shelf.everything().values()
    )


def test_on_a_shelf_nothing_large_is_on_the_device_twice() -> None:
    """What is in the machine's memory stays at its place there, and is not what was put."""
    shelf = Shelf(Lane(CPU))
    given = torch.zeros(SMALLEST)
    shelf.put("a", {"large": given})
    home = shelf.everything()["a"]["large"]
    assert home.data_ptr() != given.data_ptr()
    shelf.put("a", {"large": given + 1})
    assert shelf.everything()["a"]["large"].data_ptr() == home.data_ptr()
    assert float(home.sum()) == SMALLEST


def test_a_shelf_does_not_give_what_came_before_it_was_changed() -> None:
    """As when a checkpoint is loaded while the next weight's state is on its way."""
    shelf = Shelf(Lane(CPU))
    for value in range(4):
        for key in "ab":
            shelf.put(key, {"large": torch.full((SMALLEST,), float(value))})
    shelf.put("a", {"large": torch.full((SMALLEST,), 8.0)})  # now b is on its way
    shelf.put("b", {"large": torch.full((SMALLEST,), 9.0)})
    assert float(shelf.take("b")["large"][0]) == 9
