"""Reading what nvidia-smi, and without it the system, says; the texts are as these print them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from littlecascade.doctor import nvidia
from littlecascade.doctor.nvidia import Card, Found, find_cards, parse

MIB = 2**20
UNKNOWN_FIELD = 'Field "compute_cap" is not a valid field to query.\n\n'
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running.\n\n"
)


def test_lines_of_a_new_driver() -> None:
    text = "NVIDIA GeForce RTX 2080 Ti, 560.94, 11264, 10021, 7.5\nNVIDIA H100 80GB HBM3, 560.94, 81559, 81008, 9.0\n"
    assert list(parse(text)) == [
        Card("NVIDIA GeForce RTX 2080 Ti", "560.94", 11264 * MIB, 10021 * MIB, (7, 5)),
        Card("NVIDIA H100 80GB HBM3", "560.94", 81559 * MIB, 81008 * MIB, (9, 0)),
    ]


def test_what_is_not_told_is_unknown() -> None:
    (card,) = parse("NVIDIA GB10, 580.95.05, [N/A], [N/A], 12.1\n")
    assert (card.total, card.free, card.capability) == (None, None, (12, 1))
    (card,) = parse("Some Card, 560.94, [Not Supported], [Insufficient Permissions], [N/A]\n")
    assert (card.total, card.free, card.capability) == (None, None, None)
    assert list(parse("No devices were found\n")) == []


def answers(*outputs: tuple[int, str]):
    """A machine whose nvidia-smi gives these answers in turn, and the commands it was given."""
    commands: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> tuple[int, str]:
        commands.append(command)
        return outputs[len(commands) - 1]

    return run, commands


@pytest.mark.skipif(sys.platform == "darwin", reason="there nobody asks")
def test_an_old_driver_is_asked_again_without_the_capability() -> None:
    run, commands = answers((2, UNKNOWN_FIELD), (0, "GeForce GTX 1080 Ti, 418.87, 11178, 11000\n"))
    assert find_cards(run) == Found((Card("GeForce GTX 1080 Ti", "418.87", 11178 * MIB, 11000 * MIB, (6, 1)),))
    assert [command[1:] for command in commands] == [
        [f"--query-gpu=name,driver_version,memory.total,memory.free{more}", "--format=csv,noheader,nounits"]
        for more in (",compute_cap", "")
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux says without nvidia-smi")
def test_without_an_answer_the_system_is_asked_once() -> None:
    run, commands = answers((9, NO_DRIVER))
    found = find_cards(run)
    assert len(commands) == 1
    assert found.cards == tuple(nvidia._listed(Path("/")))
    assert bool(found.fault) == bool(found.cards)


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("NVIDIA GeForce RTX 2080 Ti", (7, 5)),
        ("NVIDIA GeForce GTX 1660 SUPER", (7, 5)),
        ("Tesla T4", (7, 5)),
        ("Quadro RTX 5000", (7, 5)),
        ("TITAN RTX", (7, 5)),
        ("NVIDIA GeForce RTX 3090", (8, 6)),
        ("NVIDIA RTX A6000", (8, 6)),
        ("NVIDIA A100-SXM4-80GB", (8, 0)),
        ("NVIDIA A10", (8, 6)),
        ("NVIDIA A30", (8, 0)),
        ("Tesla V100-SXM2-16GB", (7, 0)),
        ("NVIDIA TITAN V", (7, 0)),
        ("Tesla P100-PCIE-16GB", (6, 0)),
        ("GeForce GTX 1050", (6, 1)),
        ("Quadro P4000", (6, 1)),
        ("GeForce GTX 980", (5, 2)),
        ("Tesla M60", (5, 2)),
        ("Tesla K80", (3, 7)),
        ("Matrox G200", None),
    ],
)
def test_capabilities_by_name(name: str, capability: tuple[int, int] | None) -> None:
    assert nvidia.capability_of(name) == capability


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def test_what_the_driver_lists_under_linux(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 "
            "19:39:15 UTC 2024\nGCC version:  gcc version 12.2.0\n",
            "proc/driver/nvidia/gpus/0000_01_00.0/information": "Model: \t\t NVIDIA GeForce RTX 2080 Ti\n"
            "IRQ:   \t\t 130\nGPU UUID: \t GPU-1\nBus Location: \t 0000:01:00.0\n",
        },
    )
    assert list(nvidia._listed(tmp_path)) == [Card("NVIDIA GeForce RTX 2080 Ti", "535.183.01", capability=(7, 5))]


def test_the_open_kernel_module_words_its_version_otherwise(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release "
            "Build  (dvs-builder@U22)  Sat May 24 07:03:13 UTC 2025\n",
            "proc/driver/nvidia/gpus/0000_01_00.0/information": "Model: \t\t NVIDIA RTX A6000\n",
        },
    )
    assert [(card.name, card.driver) for card in nvidia._listed(tmp_path)] == [("NVIDIA RTX A6000", "575.57.08")]


def test_a_card_without_a_driver_is_seen_on_the_bus(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
            "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
            "sys/bus/pci/devices/0000:01:00.0/device": "0x1e07\n",
            "sys/bus/pci/devices/0000:01:00.1/vendor": "0x10de\n",  # the sound of the same card
            "sys/bus/pci/devices/0000:01:00.1/class": "0x040300\n",
            "sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086\n",
            "sys/bus/pci/devices/0000:00:02.0/class": "0x030000\n",
        },
    )
    assert list(nvidia._listed(tmp_path)) == [Card("an NVIDIA card (PCI device 0x1e07)")]


def test_a_machine_without_a_card(tmp_path: Path) -> None:
    assert list(nvidia._listed(tmp_path)) == []


@pytest.mark.parametrize(
    ("windows", "number"),
    [("32.0.15.6094", "560.94"), ("31.0.15.3179", "531.79"), ("27.21.14.5671", "456.71"), ("", "")],
)
def test_windows_numbers_of_drivers(windows: str, number: str) -> None:
    assert nvidia.windows_driver(windows) == number


def test_a_program_that_is_not_there_or_hangs_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvidia._run(["littlecascade-has-no-such-program"]) == (127, "there is no nvidia-smi")
    monkeypatch.setattr(nvidia, "TIMEOUT", 0.05)
    code, text = nvidia._run([sys.executable, "-c", "import time; time.sleep(20)"])
    assert (code, text) == (124, "nvidia-smi gave no answer in 0.05 s")
