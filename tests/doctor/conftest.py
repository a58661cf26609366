from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from littlecascade.doctor.host import Host, Torch

REQUIRES = ("torch<2.14,>=2.6", "pyyaml>=6.0", 's3fs>=2024.6; extra == "cloud"', 'pytest>=8.3; extra == "test"')


@pytest.fixture
def host() -> Callable[..., Host]:
    """Makes a sound machine without a card; what is given replaces what it has."""

    def make(**values: Any) -> Host:
        sound: dict[str, Any] = {
            "system": "Linux",
            "machine": "x86_64",
            "python": (3, 12, 1),
            "executable": "/usr/bin/python3",
            "torch": Torch("2.13.0+cpu"),
            "free_memory": 20 * 2**30,
            "memory": 32 * 2**30,
            "bfloat16": False,
            "packages": {"torch": "2.13.0+cpu", "pyyaml": "6.0.3", "s3fs": "2026.1.0"},
            "requires": REQUIRES,
            "requires_python": "<3.14,>=3.11",
            "extras": ("cloud",),
        }
        return Host(**sound | values)

    return make
