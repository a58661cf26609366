"""A whole model, or one file of it, in another format."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import torch

from littlecascade.checkpoint.convert import SHARD, Source, convert
from littlecascade.checkpoint.files import ENDINGS
from littlecascade.checkpoint.formats import FORMATS, official
from littlecascade.checkpoint.header import is_index
from littlecascade.conditioning.folder import CONFIG, write_json
from littlecascade.errors import InputError
from littlecascade.models.config import to_dict
from littlecascade.pipelines.inventory import Inventory, parts_of
from littlecascade.pipelines.model import DESCRIPTION, FOLDERS, PREPARATION, TOKENIZER, Model, config_of, tower_settings


def convert_model(
    name: str, target: Path, form: str, *, dtype: torch.dtype | None = None, shard: int = SHARD
) -> list[Path]:
    """Write a model (see `Model.find`), or the parts of a single weight file, in a format; returns the weight files.

    target: a folder, which appears whole or not at all, or a .safetensors file where all goes into one. dtype: None
    keeps each tensor's. shard: see `convert`. Raises `InputError` if the target exists, and for what the format has no
    place for.
    """
    if target.exists():
        raise InputError(f"{target} exists already: name another place, or remove it first.")
    path = Path(name).expanduser()
    single = path.is_file() and (path.suffix in ENDINGS or is_index(path))
    model = None if single else Model.find(name)
    inventory = Inventory.of_parts(parts_of(path)) if model is None else model.inventory
    parts = [part for role, part in inventory.parts.items() if role in official.FILES]
    if not parts:
        held = ", ".join(inventory.parts) or "nothing that is known here"
        raise InputError(f"{name} holds {held}, and none of what can be converted: {', '.join(official.FILES)}.")
    sources = [Source(part.role, to_dict(config_of(part)), part.tensors(), part.outline, part.notes) for part in parts]
    if target.suffix == ".safetensors":
        return convert(sources, target, form, dtype=dtype)
    new = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        written = convert(sources, new, form, dtype=dtype, shard=shard)
        _write_beside(inventory, new, form)
        if model is not None:
            write_json(new / DESCRIPTION, to_dict(model.drawing))
        new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return [target / path.relative_to(new) for path in written]


def _write_beside(inventory: Inventory, target: Path, form: str) -> None:
    """What the towers need besides weights: configuration, tokenizer, preparation of pictures."""
    places = FORMATS[form]
    for role, folder, files in (
        ("text", places.tokenizer, TOKENIZER),
        ("image", places.preparation, (PREPARATION,)),
    ):
        part = inventory.parts.get(role)
        if part is None:
            continue
        beside = (target / places.files[role]).parent
        settings = tower_settings(part, inventory)
        extra = {"tokens": settings["tokens"]} if "tokens" in settings else {}
        described = target / folder if beside == target else beside
        write_json(described / CONFIG, config_of(part).to_transformers() | extra)
        found = inventory.beside(part, FOLDERS[role], files)
        for source in [found / name for name in files] if found else []:
            if source.is_file():
                (target / folder).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target / folder / source.name)
