"""NVIDIA cards, found without CUDA: through nvidia-smi, or where it gives no answer, by what the system says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 2.5
"""Seconds that nvidia-smi may take."""

FIELDS = ("name", "driver_version", "memory.total", "memory.free", "compute_cap")
"""What nvidia-smi is asked for. Drivers before 470 or so do not know the last one."""

_MIB = 2**20
_VENDOR, _DISPLAY = "0x10de", "0x03"  # NVIDIA's number, and the class of display controllers, of PCI devices

_FAMILIES: tuple[tuple[tuple[int, int], tuple[str, ...]], ...] = (
    ((8, 0), ("A100", "A30")),
    ((8, 6), ("RTX 30", "RTX A", "A40", "A10", "A16")),
    ((7, 5), ("RTX 20", "GTX 16", "TITAN RTX", "Quadro RTX", "Tesla T4", "T1000", "T600", "T400")),
    ((7, 0), ("V100", "TITAN V", "GV100")),
    ((6, 0), ("P100", "GP100")),
    ((6, 1), ("GTX 10", "GT 10", "TITAN X (Pascal)", "TITAN Xp", "Tesla P4", "Quadro P")),
    ((5, 2), ("GTX 9", "GTX TITAN X", "Tesla M", "Quadro M")),
    ((3, 7), ("Tesla K80",)),
)
"""Compute capabilities by parts of the names of cards, for drivers that do not tell them."""


@dataclass(frozen=True)
class Card:
    """A card. total, free: bytes of memory. None, or "" for the driver, where nothing tells."""

    name: str
    driver: str = ""
    total: int | None = None
    free: int | None = None
    capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class Found:
    """The cards of a machine. fault: why nvidia-smi did not tell them, if there are any."""

    cards: tuple[Card, ...]
    fault: str = ""


def find_cards(run: Callable[[Sequence[str]], tuple[int, str]] | None = None) -> Found:
    """The NVIDIA cards of this machine. run: gives the exit code and the output of a command (default: runs it)."""
    if sys.platform == "darwin":
        return Found(())
    ask = run or _run
    fault = ""
    for fields in (FIELDS, FIELDS[:-1]):
        code, text = ask([_program(), f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"])
        if code == 0:
            return Found(tuple(parse(text)))
        fault = " ".join(text.split()) or f"nvidia-smi ended with {code}"
        if "valid field" not in text:
            break
    cards = tuple(_registered() if sys.platform == "win32" else _listed(Path("/")))
    return Found(cards, fault if cards else "")


def _program() -> str:
    places = (
        Path("C:/Program Files/NVIDIA Corporation/NVSMI/nvidia-smi.exe"),  # before 2019; now it is in System32
        Path("/usr/lib/wsl/lib/nvidia-smi"),
    )
    there = (str(place) for place in places if place.is_file())
    return shutil.which("nvidia-smi") or next(there, "nvidia-smi")


def _run(command: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return 127, "there is no nvidia-smi"
    except subprocess.TimeoutExpired:
        return 124, f"nvidia-smi gave no answer in {TIMEOUT:g} s"
    except OSError as error:
        return 126, f"nvidia-smi can't be run: {error.strerror}"
    return done.returncode, done.stdout or done.stderr


def parse(text: str) -> Iterator[Card]:
    """The cards in nvidia-smi's lines of `FIELDS`, of which the last may be missing.

    >>> next(parse("NVIDIA GeForce RTX 2080 Ti, 560.94, 11264, 10240, 7.5")).capability
    (7, 5)
    """
    for line in text.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) < len(FIELDS) - 1:
            continue
        name, driver, total, free, *rest = values
        capability = _capability(rest[0]) if rest else None
        yield Card(name, driver, _bytes(total), _bytes(free), capability or capability_of(name))


def _bytes(mebibytes: str) -> int | None:
    return int(mebibytes) * _MIB if mebibytes.isdigit() else None  # else [N/A] or [Not Supported]


def _capability(text: str) -> tuple[int, int] | None:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def capability_of(name: str) -> tuple[int, int] | None:
    """The compute capability of a card by its name, None for a name that is not known.

    >>> capability_of("GeForce GTX 1080 Ti"), capability_of("Tesla V100-SXM2-16GB"), capability_of("Some Card")
    ((6, 1), (7, 0), None)
    """
    words = f" {name} ".replace("-", " ")
    return next((found for found, parts in _FAMILIES if any(f" {part}" in words for part in parts)), None)


def _listed(root: Path) -> Iterator[Card]:
    """What Linux says: the driver of its cards, or without a driver, the devices on the bus."""
    driver = _first_line(root / "proc/driver/nvidia/version")
    number = next((word for word in driver.split() if word[0].isdigit() and "." in word), "")
    told = False
    for file in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        models = [line.partition(":")[2].strip() for line in _text(file).splitlines() if line.startswith("Model")]
        name = next(iter(models), "an NVIDIA card")
        told = True
        yield Card(name, number, capability=capability_of(name))
    if told:
        return
    for device in sorted(root.glob("sys/bus/pci/devices/*")):
        if _first_line(device / "vendor") == _VENDOR and _first_line(device / "class").startswith(_DISPLAY):
            yield Card(f"an NVIDIA card (PCI device {_first_line(device / 'device')})", number)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _first_line(path: Path) -> str:
    return next(iter(_text(path).splitlines()), "").strip()


def _registered() -> Iterator[Card]:
    """What Windows' registry says of the display adapters."""
    if sys.platform != "win32":
        return
    import winreg

    adapters = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
    for number in range(16):
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, rf"{adapters}\{number:04d}") as key:
                name = str(winreg.QueryValueEx(key, "DriverDesc")[0])
                driver = str(winreg.QueryValueEx(key, "DriverVersion")[0])
        except OSError:
            continue
        if "nvidia" in name.lower():
            yield Card(name, windows_driver(driver), capability=capability_of(name))


def windows_driver(version: str) -> str:
    """NVIDIA's number of a driver, which is in the last five digits of Windows' own.

    >>> windows_driver("32.0.15.6094")
    '560.94'
    """
    digits = "".join(sign for sign in version if sign.isdigit())[-5:]
    return f"{digits[:3]}.{digits[3:]}" if len(digits) == 5 else ""
