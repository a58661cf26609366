"""Which builds of torch there are for CUDA, which cards and drivers they run on, and how to install one.

Capabilities: "PyTorch CUDA Support Matrix" in RELEASE.md of pytorch/pytorch, of the versions named here. Drivers:
"Minor Version Compatibility" in NVIDIA's CUDA Compatibility, where a driver of the same major version will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from littlecascade.doctor.host import Host, Torch
from littlecascade.doctor.nvidia import Card

Capability = tuple[int, int]


@dataclass(frozen=True)
class Build:
    """A build: what it is called, the first and last capability it runs on, and the oldest driver."""

    name: str
    first: Capability
    last: Capability
    driver: int

    def has(self, card: Card) -> bool:
        """Whether it has code for a card; one whose capability is not known is taken to be fine."""
        return card.capability is None or self.first <= card.capability <= self.last


DRIVERS = {11: 450, 12: 525, 13: 580}
"""The oldest driver that each major version of CUDA runs with."""

CU118 = Build("cu118", (5, 0), (9, 0), DRIVERS[11])
CU124 = Build("cu124", (5, 0), (9, 0), DRIVERS[12])
CU126 = Build("cu126", (5, 0), (9, 0), DRIVERS[12])
CU128 = Build("cu128", (7, 5), (12, 9), DRIVERS[12])
CU128_VOLTA = Build("cu128", (7, 0), (12, 9), DRIVERS[12])
CU129 = Build("cu129", (7, 5), (12, 9), DRIVERS[12])
CU130 = Build("cu130", (7, 5), (12, 9), DRIVERS[13])
CU132 = Build("cu132", (7, 5), (12, 9), DRIVERS[13])

BUILDS: Mapping[Capability, tuple[Build, ...]] = {
    (2, 6): (CU126, CU124, CU118),
    (2, 7): (CU128, CU126, CU118),
    (2, 8): (CU128, CU126, CU129),
    **dict.fromkeys(((2, 9), (2, 10)), (CU128_VOLTA, CU126, CU130)),
    (2, 11): (CU128, CU126, CU130),
    **dict.fromkeys(((2, 12), (2, 13)), (CU130, CU126, CU132)),
}
"""By version of torch, the best build first, for x86-64 under Linux and Windows."""


def driver_of(card: Card) -> int:
    """The major version of a card's driver; a large number where it is not known."""
    major = card.driver.partition(".")[0]
    return int(major) if major.isdigit() else 10**6


def builds(host: Host, torch: Torch) -> tuple[Build, ...]:
    """The builds of the installed version of torch that are known, for this kind of processor."""
    return BUILDS.get(torch.minor, ()) if host.machine in ("x86_64", "AMD64") else ()


def best_build(host: Host, torch: Torch, card: Card) -> Build | None:
    """The best build that runs on a card with its driver, None if none is known."""
    return next((build for build in builds(host, torch) if build.has(card) and driver_of(card) >= build.driver), None)


def least_driver(host: Host, torch: Torch, card: Card) -> int | None:
    """The oldest driver with which a card can be used, None if none would do."""
    return min((build.driver for build in builds(host, torch) if build.has(card)), default=None)


def install(host: Host, torch: Torch, build: Build) -> str:
    """The command that puts a build of the same version in the place of the installed torch.

    The build is part of the version that is asked for, since otherwise pip takes the one that is there to be the same.
    """
    return f"{pip(host)} torch=={torch.release}+{build.name} --index-url https://download.pytorch.org/whl/{build.name}"


def pip(host: Host) -> str:
    """How `pip install` is called for the Python that runs, in the shell of its system: bash, or PowerShell."""
    python = host.executable
    if " " in python:
        python = f'& "{python}"' if host.system == "Windows" else f'"{python}"'
    return f"{python} -m pip install"
