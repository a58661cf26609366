from __future__ import annotations

import pytest
import torch

from littlecascade.errors import InputError
from littlecascade.memory import placement
from littlecascade.memory.placement import Placement, choose

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GIB = 2**30
TINY = {"text": 3_400_000, "stage_c": 13_400_000, "stage_b": 6_000_000, "stage_a": 1_000_000}
LITE = {"text": 694_659_840, "stage_c": 1_030_785_040, "stage_b": 699_471_248, "stage_a": 18_406_894}
FULL = {"text": 694_659_840, "stage_c": 3_589_103_632, "stage_b": 1_562_941_136, "stage_a": 18_406_894}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Sets how much memory is free, and whether bfloat16 is quick."""

    def set_up(free: float, *, bfloat16: bool = True) -> None:
        monkeypatch.setattr(placement, "free_memory", lambda device: free * GIB)
        kind = torch.bfloat16 if bfloat16 else torch.float32
        monkeypatch.setattr(placement, "choose_dtype", lambda precision, device: kind)

    return set_up


def chosen(device: torch.device, parameters: dict[str, int], side: int = 1024, **asked: str) -> tuple[str, str, bool]:
    found = choose(device, parameters, side, **asked)
    return found.precision, found.offload, found.fits


def test_a_small_cascade_stays_whole_and_exact_on_a_cpu(machine) -> None:
    machine(20)
    assert chosen(CPU, TINY, 128) == ("float32", "none", True)


def test_a_cpu_draws_a_large_one_in_bfloat16_a_stage_at_a_time(machine) -> None:
    machine(20)
    assert chosen(CPU, LITE) == chosen(CPU, FULL) == ("bfloat16", "stage", True)
    machine(20, bfloat16=False)  # slower in 16 bits, so only where it has to be
    assert chosen(CPU, LITE) == ("float32", "stage", True)
    assert chosen(CPU, FULL) == ("bfloat16", "stage", True)


@pytest.mark.parametrize(
    ("free", "parameters", "expected"),
    [
        (24, FULL, ("none", "bfloat16")),
        (10.5, FULL, ("stage", "bfloat16")),
        (7.5, FULL, ("stage", "int8")),
        (3.7, LITE, ("stage", "bfloat16")),
        (2.2, FULL, ("block", "bfloat16")),
        (1.3, FULL, ("block", "int8")),
    ],
)
def test_a_gpu_takes_what_fits(machine, free: float, parameters: dict[str, int], expected: tuple[str, str]) -> None:
    machine(free)
    offload, precision = expected
    assert chosen(GPU, parameters) == (precision, offload, True)
    if precision == "bfloat16":
        machine(free, bfloat16=False)
        assert chosen(GPU, parameters) == ("float16", offload, True)


def test_eight_bits_are_computed_in_what_the_device_has(machine) -> None:
    machine(7.5)
    assert choose(GPU, FULL, 1024).dtype == torch.bfloat16
    machine(7.5, bfloat16=False)
    assert choose(GPU, FULL, 1024).dtype == torch.float16
    assert choose(CPU, TINY, 128, precision="int8").dtype == torch.float32


def test_what_is_asked_for_is_obeyed(machine) -> None:
    machine(20)
    assert chosen(CPU, TINY, 128, precision="bfloat16", offload="block") == ("bfloat16", "block", True)
    assert chosen(GPU, LITE, precision="int8")[0] == "int8"
    assert chosen(GPU, FULL, offload="block") == ("bfloat16", "block", True)
    machine(2)
    assert chosen(GPU, FULL, precision="float32", offload="none") == ("float32", "none", False)


def test_where_nothing_fits_the_least_is_taken(machine) -> None:
    machine(0.1)
    assert chosen(GPU, FULL) == ("int8", "block", False)


def test_small_networks_are_not_in_float16(machine) -> None:
    machine(10)
    found = choose(GPU, LITE, 1024, precision="float16")
    assert (found.large.dtype, found.small.dtype) == (torch.float16, torch.float32)
    assert found.small.whole


def test_it_says_what_it_chose(machine) -> None:
    machine(20)
    said = str(choose(CPU, FULL, 1024))
    assert said == "bfloat16 on cpu, one network at a time: about 7.3 GiB of the 20.0 GiB that are free"
    assert isinstance(choose(CPU, FULL, 1024), Placement)


@pytest.mark.parametrize("asked", [{"precision": "flaot16"}, {"offload": "blocks"}])
def test_unknown_names_are_told_with_the_nearest(asked: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"Did you mean '(float16|block)'"):
        choose(CPU, TINY, 128, **asked)
