"""The facts about a machine that the checks judge. They are gathered here and nowhere else, so that any machine can be
stated as data.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution, version

from littlecascade.doctor.nvidia import Card, Found, find_cards


@dataclass(frozen=True)
class Torch:
    """The installed torch. version: with its build, such as 2.13.0+cpu. cuda, hip: what it was built for, if so.

    devices: how many CUDA devices it sees; 0 where there is no card, without a look. fault: why it can't be imported.
    """

    version: str
    cuda: str | None = None
    hip: str | None = None
    devices: int = 0
    mps: bool = False
    fault: str = ""

    @property
    def minor(self) -> tuple[int, int]:
        """Its major and minor version."""
        major, minor = self.version.split(".")[:2]
        return int(major), int("".join(sign for sign in minor if sign.isdigit()))

    @property
    def release(self) -> str:
        """Its version without the build."""
        return self.version.partition("+")[0]


@dataclass(frozen=True)
class Host:
    """One machine. system: Linux, Windows or Darwin. machine: x86_64, AMD64, aarch64, arm64.

    smi: why nvidia-smi did not tell of the cards, if there are any. free_memory, memory: bytes. bfloat16: whether the
    CPU is quick with it, None if not measured.
    packages: versions of what is installed of `requires`, by name. requires_python, requires, extras: as in the
    project's metadata, but for what is only for its own tests.
    """

    system: str
    machine: str
    python: tuple[int, int, int]
    executable: str
    torch: Torch | None
    cards: tuple[Card, ...] = ()
    smi: str = ""
    free_memory: int = 0
    memory: int = 0
    bfloat16: bool | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    requires_python: str = ""
    requires: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()

    @classmethod
    def here(cls) -> Host:
        """This machine, now. CUDA is asked only where there is a card and torch is built for it."""
        import psutil

        with ThreadPoolExecutor(1) as pool:  # both take a second or so
            cards = pool.submit(find_cards)
            torch = _torch(cards)
            found = cards.result()
        memory = psutil.virtual_memory()
        requires_python, requires, extras = _requirements()
        return cls(
            system=platform.system(),
            machine=platform.machine(),
            python=sys.version_info[:3],
            executable=sys.executable,
            torch=torch,
            cards=found.cards,
            smi=found.fault,
            free_memory=memory.available,
            memory=memory.total,
            bfloat16=_quick_bfloat16(torch),
            packages=_versions(requires),
            requires_python=requires_python,
            requires=requires,
            extras=extras,
        )


def _torch(found: Future[Found]) -> Torch | None:
    try:
        installed = version("torch")
    except PackageNotFoundError:
        return None
    try:
        import torch
    except (ImportError, OSError) as error:  # a library that is missing is an OSError under Windows
        return Torch(installed, fault=f"{type(error).__name__}: {error}")
    cuda, hip = torch.version.cuda, torch.version.hip
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    devices = torch.cuda.device_count() if (hip or (cuda and found.result().cards)) and not hidden else 0
    return Torch(torch.__version__, cuda, hip, devices, torch.backends.mps.is_available())


def _quick_bfloat16(torch: Torch | None) -> bool | None:
    if torch is None or torch.fault:
        return None
    from littlecascade.memory.precision import choose_dtype

    return str(choose_dtype("auto", "cpu")) == "torch.bfloat16"


def _requirements() -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """What the installed package says: the Python and the packages it needs, and its extras.

    Nothing where it runs from its sources.
    """
    try:
        installed = distribution("littlecascade")
    except PackageNotFoundError:
        return "", (), ()
    extras = tuple(name for name in installed.metadata.get_all("Provides-Extra") or () if name != "test")
    return "".join(installed.metadata.get_all("Requires-Python") or ()), tuple(installed.requires or ()), extras


def _versions(requires: tuple[str, ...]) -> dict[str, str]:
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    for name in {Requirement(line).name for line in requires}:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
