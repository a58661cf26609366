"""What of a model is there, whole and of one size, and what each command needs of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from littlecascade.checkpoint.download import sha256
from littlecascade.checkpoint.networks import ROLES
from littlecascade.checkpoint.recognise import Part
from littlecascade.conditioning.clip import TextTower, VisionTower
from littlecascade.errors import InputError
from littlecascade.pipelines.inventory import describe, sizes
from littlecascade.pipelines.model import FOLDERS, NEEDS, TOKENIZER, Model, config_of

PARTS = ("text", "tokenizer", "image", "stage_c", "stage_b", "stage_a", "compressor", "previewer")

_TOWERS = {"text": TextTower, "image": VisionTower}
_WIDTHS = (
    ("text", "width", "stage_c", "text_width"),
    ("text", "projection", "stage_c", "pooled_width"),
    ("image", "projection", "stage_c", "image_width"),
    ("text", "projection", "stage_b", "pooled_width"),
    ("compressor", "latent_channels", "stage_b", "effnet_channels"),
)
"""What one part gives and another takes."""


@dataclass(frozen=True)
class Finding:
    """One part of a model. state: present, missing, damaged or wrong size; detail says more of the last three."""

    role: str
    state: str
    path: Path | None = None
    part: Part | None = None
    detail: str = ""


def survey(model: Model, *, hashes: bool = False) -> list[Finding]:
    """A finding for each of `PARTS`, in their order. Reads headers, and no weights but for `hashes`."""
    found = {role: _finding(model, role, hashes) for role in PARTS}
    present = {role: config_of(f.part) for role, f in found.items() if f.part and f.state == "present"}
    for role, detail in _misfits(present):
        found[role] = Finding(role, "wrong size", found[role].path, found[role].part, detail)
    return list(found.values())


def missing(findings: list[Finding], command: str) -> list[str]:
    """The parts that a command needs and that are not present."""
    return [f.role for f in findings if f.role in NEEDS[command] and f.state != "present"]


def _finding(model: Model, role: str, hashes: bool) -> Finding:
    inventory = model.inventory
    if role == "tokenizer":
        part = inventory.parts.get("text")
        folder = part and inventory.beside(part, FOLDERS["text"], TOKENIZER[:2])
        return Finding(role, "present" if folder else "missing", folder)
    part = inventory.parts.get(role)
    tried = inventory.expected(role, model.size)
    names = {path.name for path in tried}
    broken = next((path for path in inventory.problems if _is_named(path, role, names)), None)
    if part is None and broken is not None:
        return Finding(role, "damaged", broken, None, inventory.problems[broken])
    if part is not None:
        detail = _damage(part) or (_wrong_hash(part) if hashes else "")
        return Finding(role, "damaged" if detail else "present", part.path, part, detail)
    for other in inventory.instead(role, model.size):
        state = "wrong size" if other.role == role else "missing"
        return Finding(role, state, other.path, other, f"it is {describe(other)}")
    return Finding(role, "missing", None, None, f"looked for {tried[0]}" if tried else "")


def _is_named(path: Path, role: str, names: set[str]) -> bool:
    """Whether a file that can't be read is a role's, by its name, or by its folder's where all files have one name."""
    return path.name in names and (role not in _TOWERS or path.parent.name in (role, f"{role}_encoder"))


def _damage(part: Part) -> str:
    """How a part's tensors differ from those of the network that it says it is; empty if they don't."""
    try:
        config = config_of(part)
        with torch.device("meta"):
            network = _TOWERS[part.role](config) if part.role in _TOWERS else ROLES[part.role].network(config)
    except InputError as error:
        return str(error)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    lost = [name for name in shapes if name not in part.outline]
    odd = [name for name, shape in shapes.items() if name in part.outline and part.outline[name].shape != shape]
    if lost:
        return f"{len(lost)} of {len(shapes)} tensors are missing, {lost[0]} for one"
    return f"{len(odd)} of {len(shapes)} tensors have other shapes, {odd[0]} for one" if odd else ""


def _wrong_hash(part: Part) -> str:
    """Which file of a part has not the hash by which the Hugging Face cache calls it; empty if none is known."""
    for path in part.header.files:
        name = path.resolve().name
        if len(name) == 64 and sha256(path) != name:
            return f"{path} is not what was downloaded: its hash differs"
    return ""


def _misfits(configs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Parts that do not take what another gives."""
    for giver, gives, taker, takes in _WIDTHS:
        if giver in configs and taker in configs:
            given, taken = getattr(configs[giver], gives), getattr(configs[taker], takes)
            if given != taken:
                yield giver, f"its {gives} is {given}, and {taker} takes {taken}"


def named(finding: Finding) -> str:
    """The size of a finding's part, `-` where there is none."""
    return " or ".join(sizes(finding.part)) or "own" if finding.part else "-"
