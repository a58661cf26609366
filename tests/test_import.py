"""What a fresh interpreter loads, and does, when the package is imported or asked for help."""

from __future__ import annotations

import subprocess
import sys
from operator import attrgetter

import pytest

HELP = "from littlecascade.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
HEAVY = {"PIL", "huggingface_hub", "numpy", "pydantic", "tokenizers", "torch", "transformers", "yaml"}


def python(code: str) -> str:
    """What a fresh interpreter prints to stderr while running `code`."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stderr


@pytest.mark.parametrize("code", ["import littlecascade", HELP], ids=["import", "help"])
def test_nothing_heavy_is_loaded(code: str) -> None:
    loaded = python(f"{code}\nimport sys; print(*sys.modules, file=sys.stderr)").split()
    assert "littlecascade" in loaded
    assert not HEAVY & set(loaded)


def test_public_names_are_found_on_first_use() -> None:
    import littlecascade
    from littlecascade.errors import InputError

    assert littlecascade.InputError is InputError
    assert set(littlecascade.__all__) <= set(dir(littlecascade))
    with pytest.raises(AttributeError, match="no attribute 'Cascades'"):
        attrgetter("Cascades")(littlecascade)


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "littlecascade", "--version"], capture_output=True, text=True)
    import littlecascade

    assert (done.returncode, done.stdout) == (0, f"littlecascade {littlecascade.__version__}\n")
