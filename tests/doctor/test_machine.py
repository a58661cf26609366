"""What the doctor says of other machines than this one, stated as data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from littlecascade.checks import Line
from littlecascade.doctor import machine
from littlecascade.doctor.host import Host, Torch
from littlecascade.doctor.nvidia import Card, parse

GIB = 2**30


def card(line: str) -> Card:
    (found,) = parse(line)
    return found


RTX_2080_TI = card("NVIDIA GeForce RTX 2080 Ti, 581.29, 11264, 10800, 7.5")
RTX_3060 = card("NVIDIA GeForce RTX 3060, 580.95.05, 12288, 11800, 8.6")
GTX_1080 = card("NVIDIA GeForce GTX 1080, 576.02, 8192, 7500, 6.1")
VOLTA = card("Tesla V100-SXM2-16GB, 550.54, 16384, 16000, 7.0")
RTX_5090 = card("NVIDIA GeForce RTX 5090, 572.16, 32607, 30000, 12.0")


def lines(host: Host) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for check in machine.CHECKS:
        for line in check(host):
            found.setdefault(line.subject, []).append(line)
    return found


def torch_line(host: Host) -> Line:
    (line,) = machine.torch(host)
    return line


def test_a_sound_machine_has_nothing_to_fix(host: Callable[..., Host]) -> None:
    found = lines(host())
    assert all(line.level != "fix" for group in found.values() for line in group)
    assert [line.text for line in found["gpu"]] == ["no NVIDIA card found: everything runs on the CPU"]
    assert found["extras"][0].text == "cloud: s3fs"
    assert found["memory"][0].text == "20.0 GiB of 32.0 GiB free"


def test_windows_with_a_card_and_the_cpu_build_is_told_the_command(host: Callable[..., Host]) -> None:
    line = torch_line(
        host(
            system="Windows",
            machine="AMD64",
            executable=r"C:\Users\Ada Byron\venv\Scripts\python.exe",
            torch=Torch("2.13.0+cpu"),
            cards=(RTX_2080_TI,),
        )
    )
    assert (line.level, "NVIDIA GeForce RTX 2080 Ti is not used" in line.text) == ("fix", True)
    assert line.remedy == (
        r'& "C:\Users\Ada Byron\venv\Scripts\python.exe" -m pip install torch==2.13.0+cu130 '
        "--index-url https://download.pytorch.org/whl/cu130"
    )


@pytest.mark.parametrize(
    ("version", "found", "build"),
    [
        ("2.13.0+cpu", RTX_3060, "2.13.0+cu130"),
        ("2.13.0+cpu", card("NVIDIA GeForce RTX 3060, 560.94, 12288, 11800, 8.6"), "2.13.0+cu126"),  # an older driver
        ("2.13.0+cpu", GTX_1080, "2.13.0+cu126"),  # CUDA 13 has no Pascal
        ("2.9.1+cpu", RTX_5090, "2.9.1+cu128"),  # CUDA 12.6 has no Blackwell
        ("2.9.1", RTX_2080_TI, "2.9.1+cu128"),  # from PyPI, which has CPU builds alone for Windows
        ("2.7.1+cpu", card("GeForce GTX 1080, 470.103, 8192, 7500"), "2.7.1+cu118"),  # tells no capability
        ("2.13.0+cpu", VOLTA, "2.13.0+cu126"),
        ("2.6.0+cpu", RTX_3060, "2.6.0+cu126"),
    ],
)
def test_the_build_fits_version_card_and_driver(
    version: str, found: Card, build: str, host: Callable[..., Host]
) -> None:
    line = torch_line(host(torch=Torch(version), cards=(found,)))
    index = f"https://download.pytorch.org/whl/{build.partition('+')[2]}"
    assert line.remedy == f"/usr/bin/python3 -m pip install torch=={build} --index-url {index}"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cards": (card("NVIDIA GeForce RTX 3060, 470.82, 12288, 11800"),)}, "driver 525 or newer (this is 470.82)"),
        ({"cards": (card("NVIDIA GeForce RTX 5090, 572.16, 32607, 30000, 12.0"),)}, "driver 580 or newer"),
        ({"cards": (card("Tesla K80, 470.82, 12288, 11800, 3.7"),)}, "No build of torch 2.13.0 for this card is known"),
        ({"cards": (RTX_3060,), "torch": Torch("2.99.0+cpu")}, "see pytorch.org/get-started"),
        ({"cards": (RTX_3060,), "machine": "aarch64"}, "see pytorch.org/get-started"),
    ],
)
def test_where_no_build_runs_the_way_out_is_told(values: dict[str, Any], said: str, host: Callable[..., Host]) -> None:
    line = torch_line(host(**values))
    assert line.level == "fix"
    assert said in line.remedy


@pytest.mark.parametrize(
    ("found", "built", "level", "said"),
    [
        (RTX_2080_TI, Torch("2.13.0+cu130", "13.0", devices=1), "ok", "built for CUDA 13.0, sees 1 device"),
        (RTX_3060, Torch("2.9.1+cu128", "12.8", devices=2), "ok", "sees 2 devices"),
        (RTX_3060, Torch("2.9.1+cu128", "12.8", devices=0), "fix", "sees no device"),
        (GTX_1080, Torch("2.13.0+cu126", "12.6", devices=1), "ok", "sees 1 device"),
        (VOLTA, Torch("2.9.1+cu128", "12.8", devices=1), "ok", "sees 1 device"),
        (VOLTA, Torch("2.11.0+cu128", "12.8", devices=1), "fix", "has no code for the Tesla V100"),
        (GTX_1080, Torch("2.9.1+cu128", "12.8", devices=1), "fix", "has no code for the NVIDIA GeForce GTX 1080"),
        (RTX_5090, Torch("2.13.0+cu130", "13.0", devices=0), "fix", "needs driver 580 or newer; this is 572.16"),
    ],
)
def test_cuda_builds(found: Card, built: Torch, level: str, said: str, host: Callable[..., Host]) -> None:
    line = torch_line(host(cards=(found,), torch=built))
    assert (line.level, said in line.text) == (level, True)


def test_a_card_that_the_build_has_no_code_for(host: Callable[..., Host]) -> None:
    pascal = card("NVIDIA GeForce GTX 1080, 580.88, 8192, 7500, 6.1")
    line = torch_line(host(cards=(pascal,), torch=Torch("2.13.0+cu130", "13.0", devices=1)))
    assert (line.level, "has no code for" in line.text) == ("fix", True)
    assert "torch==2.13.0+cu126" in line.remedy


def test_torch_that_is_broken_missing_or_for_other_hardware(host: Callable[..., Host]) -> None:
    broken = torch_line(host(system="Windows", torch=Torch("2.13.0+cpu", fault="OSError: [WinError 126] fbgemm.dll")))
    assert (broken.level, "WinError 126" in broken.text) == ("fix", True)
    assert "Visual C++ Redistributable" in broken.remedy
    assert torch_line(host(torch=None)).level == "fix"
    assert torch_line(host(torch=Torch("2.9.0+rocm6.4", hip="6.4"))).level == "note"


def test_a_mac_with_mps(host: Callable[..., Host]) -> None:
    found = lines(host(system="Darwin", machine="arm64", torch=Torch("2.13.0", mps=True)))
    assert [(line.level, "MPS" in line.text) for line in found["gpu"]] == [("note", True)]
    assert found["torch"][0].level == "ok"


@pytest.mark.parametrize(
    ("capability", "said"),
    [
        ((12, 0), "bfloat16 and float16 native"),
        ((8, 0), "bfloat16 and float16 native"),
        ((7, 5), "float16 native, bfloat16 emulated and slow"),
        ((7, 0), "float16 native, bfloat16 emulated and slow"),
        ((6, 1), "float16 saves memory but no time, no bfloat16"),
        ((6, 0), "without tensor cores"),
        ((5, 2), "float16 saves memory but no time, no bfloat16"),
    ],
)
def test_what_cards_compute_in(capability: tuple[int, int], said: str) -> None:
    assert said in machine.formats(capability)


@pytest.mark.parametrize(
    ("found", "smi", "level", "said"),
    [
        (RTX_2080_TI, "", "ok", "driver 581.29, compute capability 7.5, 10.5 GiB of 11.0 GiB free"),
        (Card("Quadro", "560.1", 8 * GIB, GIB), "", "note", "1.0 GiB of 8.0 GiB free"),
        (Card("an NVIDIA card (PCI device 0x1e07)"), "there is no nvidia-smi", "fix", "no driver answers"),
        (Card("Tesla T4", "535.1"), "nvidia-smi gave no answer", "note", "(nvidia-smi gave no answer)"),
    ],
)
def test_cards(found: Card, smi: str, level: str, said: str, host: Callable[..., Host]) -> None:
    (line,) = machine.cards(host(cards=(found,), smi=smi))
    assert (line.level, said in line.text) == (level, True)


@pytest.mark.parametrize(("version", "level"), [((3, 10, 9), "fix"), ((3, 11, 0), "ok"), ((3, 14, 0), "fix")])
def test_python(version: tuple[int, int, int], level: str, host: Callable[..., Host]) -> None:
    (line,) = machine.python(host(python=version))
    assert line.level == level


def test_libraries(host: Callable[..., Host]) -> None:
    found = list(machine.libraries(host(packages={"torch": "2.5.1+cu121"})))
    assert [(line.level, line.text) for line in found] == [
        ("fix", "torch 2.5.1+cu121 is not one of <2.14,>=2.6."),
        ("fix", "pyyaml is not installed."),
    ]
    assert found[1].remedy == '/usr/bin/python3 -m pip install "pyyaml>=6.0"'
    (line,) = machine.libraries(host(requires=()))
    assert (line.level, "runs from its sources" in line.text) == ("note", True)


def test_extras_that_are_not_there_are_no_fault(host: Callable[..., Host]) -> None:
    (line,) = machine.extras(host(packages={}))
    assert (line.level, "cloud is not there: it lacks s3fs" in line.text) == ("note", True)


def test_little_memory(host: Callable[..., Host]) -> None:
    (line,) = machine.memory(host(free_memory=GIB))
    assert line.level == "note"


def test_every_fault_comes_with_a_remedy(host: Callable[..., Host]) -> None:
    ill = host(python=(3, 9, 0), packages={}, torch=Torch("2.13.0+cpu"), cards=(Card("an NVIDIA card"),))
    faults = [line for group in lines(ill).values() for line in group if line.level == "fix"]
    assert {line.subject for line in faults} == {"python", "libraries", "gpu", "torch"}
    assert all(line.remedy for line in faults)
