"""The folders in which transformers saves a tower: config.json beside one weight file or several shards of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.errors import InputError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_WHOLE = (WEIGHTS, "pytorch_model.bin")
_BUFFER = ".position_ids"  # a range of numbers that transformers stored as a tensor before 4.31


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `InputError` where there is none."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"There is no {path.name} in {path.parent.absolute()}: it is no folder of a model.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a JSON object.")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes an object as indented JSON, making the folder."""
    files.write_text(path, json.dumps(content, indent=2) + "\n")


def read_tensors(folder: Path, prefixes: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of a model's folder whose names begin with one of `prefixes`, memory-mapped.

    So a tower is read from the files of a whole CLIP model as well. Safetensors are preferred to pickles.

    Raises:
        InputError: there are no weight files, or none of their tensors has one of the prefixes.
    """
    for name in _WHOLE:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            shards = [folder / name]
        elif index.is_file():
            shards = [folder / shard for shard in sorted(set(read_json(index)["weight_map"].values()))]
        else:
            continue
        tensors = {key: tensor for shard in shards for key, tensor in files.load(shard).items()}
        wanted = {key: t for key, t in tensors.items() if key.startswith(tuple(prefixes)) and not key.endswith(_BUFFER)}
        if not wanted:
            raise InputError(
                f"No tensor in {folder} begins with {' or '.join(prefixes)}; one is {next(iter(tensors))}."
            )
        return wanted
    raise InputError(f"No weights in {folder.absolute()}: looked for {' and '.join(_WHOLE)}, whole or in shards.")
