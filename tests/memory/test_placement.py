from __future__ import annotations

import pytest
import torch

from littlecascade.errors import InputError
from littlecascade.memory import placement
from littlecascade.memory.placement import Machine, choose

GIB = 2**30
TINY = {"text": 3_400_000, "stage_c": 13_400_000, "stage_b": 6_000_000, "stage_a": 1_000_000}
LITE = {"text": 694_659_840, "stage_c": 1_030_785_040, "stage_b": 699_471_248, "stage_a": 18_406_894}
FULL = {"text": 694_659_840, "stage_c": 3_589_103_632, "stage_b": 1_562_941_136, "stage_a": 18_406_894}


def cpu(free: float, *, bfloat16: bool = True) -> Machine:
    return Machine(torch.device("cpu"), free * GIB, bfloat16)


def gpu(free: float, *, bfloat16: bool = True) -> Machine:
    return Machine(torch.device("cuda"), free * GIB, bfloat16)


def chosen(machine: Machine, parameters: dict[str, int], side: int = 1024, **asked: str) -> tuple[str, str, bool]:
    found = choose(machine, parameters, side, **asked)
    return found.precision, found.offload, found.fits


def test_a_small_cascade_stays_whole_and_exact_on_a_cpu() -> None:
    assert chosen(cpu(20), TINY, 128) == ("float32", "none", True)


def test_a_cpu_draws_a_large_one_in_bfloat16_a_stage_at_a_time() -> None:
    assert chosen(cpu(20), LITE) == chosen(cpu(20), FULL) == ("bfloat16", "stage", True)
    slow = cpu(20, bfloat16=False)  # in 16 bits, so only where it has to be
    assert chosen(slow, LITE) == ("float32", "stage", True)
    assert chosen(slow, FULL) == ("bfloat16", "stage", True)
    assert chosen(cpu(3), FULL) == ("bfloat16", "block", True)


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
def test_a_gpu_takes_what_fits(free: float, parameters: dict[str, int], expected: tuple[str, str]) -> None:
    offload, precision = expected
    assert chosen(gpu(free), parameters) == (precision, offload, True)
    if precision == "bfloat16":
        assert chosen(gpu(free, bfloat16=False), parameters) == ("float16", offload, True)


def test_eight_bits_are_computed_in_what_the_device_has() -> None:
    assert choose(gpu(7.5), FULL, 1024).dtype == torch.bfloat16
    assert choose(gpu(7.5, bfloat16=False), FULL, 1024).dtype == torch.float16
    assert choose(cpu(20), TINY, 128, precision="int8").dtype == torch.float32


def test_what_is_asked_for_is_obeyed() -> None:
    assert chosen(cpu(20), TINY, 128, precision="bfloat16", offload="block") == ("bfloat16", "block", True)
    assert chosen(gpu(20), LITE, precision="int8")[0] == "int8"
    assert chosen(gpu(20), FULL, offload="block") == ("bfloat16", "block", True)
    assert chosen(gpu(2), FULL, precision="float32", offload="none") == ("float32", "none", False)


def test_where_nothing_fits_the_least_is_taken() -> None:
    assert chosen(gpu(0.1), FULL) == ("int8", "block", False)


def test_small_networks_are_not_in_float16() -> None:
    found = choose(gpu(10), LITE, 1024, precision="float16")
    assert (found.large.dtype, found.small.dtype) == (torch.float16, torch.float32)
    assert found.small.whole


def test_it_says_what_it_chose() -> None:
    said = str(choose(cpu(20), FULL, 1024))
    assert said == "bfloat16 on cpu, one network at a time: about 7.3 GiB of the 20.0 GiB that are free"


def test_it_says_what_may_not_fit() -> None:
    assert str(choose(gpu(0.5), FULL, 1024)).endswith("of the 0.5 GiB that are free, which may not do")


@pytest.mark.parametrize("asked", [{"precision": "flaot16"}, {"offload": "blocks"}])
def test_unknown_names_are_told_with_the_nearest(asked: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"Did you mean '(float16|block)'"):
        choose(cpu(20), TINY, 128, **asked)


def test_this_machine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "free_memory", lambda device: 5)
    monkeypatch.setattr(placement, "choose_dtype", lambda precision, device: torch.bfloat16)
    assert Machine.of(torch.device("cpu")) == Machine(torch.device("cpu"), 5, bfloat16=True)
