"""Stable Cascade for one person: draw, reconstruct and train on a small GPU, or none.

    from littlecascade import Cascade

    Cascade.load("tiny").generate("a red apple", seed=0).images[0].save("apple.png")

Importing this package loads nothing else: its public names are looked up on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from littlecascade.adapters.files import Adapter
    from littlecascade.errors import InputError
    from littlecascade.pipelines.cascade import Cascade
    from littlecascade.pipelines.results import Result, StopDrawing, load_latents

__version__ = "0.1.0"
__all__ = ["Adapter", "Cascade", "InputError", "Result", "StopDrawing", "__version__", "load_latents"]

_HOMES = {
    "Adapter": "littlecascade.adapters.files",
    "Cascade": "littlecascade.pipelines.cascade",
    "InputError": "littlecascade.errors",
    "Result": "littlecascade.pipelines.results",
    "StopDrawing": "littlecascade.pipelines.results",
    "load_latents": "littlecascade.pipelines.results",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | set(__all__))
