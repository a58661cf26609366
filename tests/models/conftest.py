from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from torch import Tensor

KEYS = Path(__file__).parents[1] / "golden" / "keys"


@pytest.fixture
def golden_keys() -> Callable[[str, Mapping[str, Tensor]], None]:
    """`golden_keys(name, state_dict)` compares names, shapes and dtypes with `tests/golden/keys/{name}.txt`.

    With the environment variable `WRITE_GOLDEN=1` it writes the file anew; the change then stands in the diff.
    """

    def compare(name: str, tensors: Mapping[str, Tensor]) -> None:
        lines = [
            f"{key} {'x'.join(map(str, tensor.shape))} {str(tensor.dtype).removeprefix('torch.')}\n"
            for key, tensor in sorted(tensors.items())
        ]
        path = KEYS / f"{name}.txt"
        if os.environ.get("WRITE_GOLDEN") == "1":
            path.write_text("".join(lines), encoding="utf-8", newline="\n")
        assert path.read_text(encoding="utf-8").splitlines(keepends=True) == lines

    return compare
