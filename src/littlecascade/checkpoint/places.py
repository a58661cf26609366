"""Where weights lie on this machine, and where they are published."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CASCADE = "stabilityai/stable-cascade"
TOWERS = {"text": "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", "image": "openai/clip-vit-large-patch14"}
"""Repositories of the Hugging Face hub: the official release's, and those of the towers that it was trained with."""

PRECISIONS = {"bfloat16": "_bf16", "float32": ""}
"""Number formats in which the official release has Stage B and C, and how their files' names end."""

STAGES = {"full": "", "lite": "_lite"}
"""Sizes of the official release, and how their stages' names end before that."""


VERSIONS = {"1B": "lite", "700M": "lite", "3.6B": "full", "3B": "full"}
"""The official `model_version`s (Stage C: 1B, 3.6B; Stage B: 700M, 3B), and the sizes that they are."""


def published(role: str, size: str, precision: str) -> str:
    """The name of a network's file in the official release."""
    names = {"compressor": "effnet_encoder"}
    stage = STAGES[size] + PRECISIONS[precision] if role in ("stage_b", "stage_c") else ""
    return f"{names.get(role, role)}{stage}.safetensors"


def home() -> Path:
    """The folder of the user's models: `LITTLECASCADE_HOME`, or littlecascade's in the platform's folder of caches."""
    if own := os.environ.get("LITTLECASCADE_HOME"):
        return Path(own).expanduser()
    user = Path.home()
    match sys.platform:
        case "win32":
            caches = Path(os.environ.get("LOCALAPPDATA", user / "AppData" / "Local"))
        case "darwin":
            caches = user / "Library" / "Caches"
        case _:
            caches = Path(os.environ.get("XDG_CACHE_HOME", user / ".cache"))
    return caches / "littlecascade"


def packaged(name: str) -> Path:
    """Where the package has the weights of a size, if it has any."""
    return Path(__file__).parent.parent / "weights" / name


def models(name: str) -> Path:
    """Where a user's own files of a size, or of a finetune by its name, are looked for."""
    return home() / "models" / name


def finetunes() -> list[Path]:
    """The user's folders of models, but for those of the official sizes and their towers."""
    folder = home() / "models"
    folders = [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    return sorted(entry for entry in folders if entry.name not in (*STAGES, *TOWERS, "tokenizer"))


def cached(repository: str) -> Path:
    """The folder of a repository in the Hugging Face cache, whether or not it exists."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def installed(size: str | None = None) -> list[Path]:
    """The folders outside the package in which downloaded and own weights lie, those of `size` first."""
    return [*([models(size)] if size else []), home() / "models", *snapshots()]


def snapshot(repository: str) -> Path | None:
    """The folder of the Hugging Face cache with what was downloaded of a repository, None where nothing was."""
    folder = cached(repository)
    try:
        revision = (folder / "refs" / "main").read_text("utf-8").strip()
    except OSError:
        return None
    found = folder / "snapshots" / revision
    return found if found.is_dir() else None


def snapshots() -> list[Path]:
    """The folders of the Hugging Face cache in which downloaded files of the known repositories are."""
    return [found for repository in (CASCADE, *TOWERS.values()) if (found := snapshot(repository)) is not None]
