"""Which cascade to draw with: where its weights are, and how it is meant to draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from littlecascade.checkpoint import files as weight_files
from littlecascade.checkpoint import places
from littlecascade.checkpoint.formats import official
from littlecascade.checkpoint.networks import ROLES
from littlecascade.checkpoint.recognise import Part
from littlecascade.conditioning.clip import TextConfig, VisionConfig
from littlecascade.conditioning.folder import CONFIG, read_json
from littlecascade.errors import InputError, suggest
from littlecascade.models.config import from_dict
from littlecascade.pipelines import inference
from littlecascade.pipelines.inventory import Inventory, describe, sizes
from littlecascade.presets import PRESETS, Drawing, find_preset

DESCRIPTION = "cascade.json"
PREPARATION = "preprocessor_config.json"
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
NEEDS: Mapping[str, tuple[str, ...]] = {
    "generate": ("text", "tokenizer", "stage_c", "stage_b", "stage_a"),
    "vary": ("text", "tokenizer", "image", "stage_c", "stage_b", "stage_a"),
    "edit": ("text", "tokenizer", "compressor", "stage_c", "stage_b", "stage_a"),
    "reconstruct": ("compressor", "stage_b", "stage_a"),
}
"""Commands, and the parts without which they can't run. The previewer is only for the live preview."""

FOLDERS = {"text": ("tokenizer", "text"), "image": ("feature_extractor", "image")}
"""Where else than beside its weights a tower's tokenizer, or the preparation of its pictures, may lie."""


@dataclass(frozen=True)
class Weights:
    """A network's weights, not yet read. config: of the class that the network is built from."""

    part: Part
    config: Any

    @property
    def path(self) -> Path:
        """The file, or the index of its shards."""
        return self.part.path

    @property
    def notes(self) -> Mapping[str, str]:
        """What else the file says, such as its training's objective."""
        return self.part.notes


@dataclass(frozen=True)
class TowerWeights(Weights):
    """The weights of a text or image tower. folder: where the tokenizer, or the preparation of pictures, lies.

    settings: the tower's config.json, for the text tower, or preprocessor_config.json; empty where there is none.
    """

    folder: Path
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """The weights of one cascade, wherever they lie.

    name: by which it was asked for. drawing: how it is meant to draw. size: the named size that it has, if any.
    folder: the first of the places where its weights were looked for. settings: what an inference configuration says
    beyond the files of its networks.
    """

    name: str
    drawing: Drawing
    size: str | None
    folder: Path
    inventory: Inventory
    settings: Mapping[str, Any]

    @classmethod
    def find(cls, name: str) -> Model:
        """The model of a size, of a folder, or of files: weights and inference configurations, comma-separated.

        A size has the official names too (1B, 3.6B), and a folder among the user's models goes by its name. Files may
        be in any format that is known. What files leave out is looked for where their size is installed.
        Raises `InputError` if there is no such model; parts that are missing are told when they are asked for.
        """
        own = () if name in places.STAGES else (places.models(name),)
        folder = next((path for path in (places.packaged(name), Path(name).expanduser(), *own) if path.is_dir()), None)
        if folder is not None:
            return cls._of_folder(name, folder)
        files = [Path(file.strip()).expanduser() for file in name.split(",")]
        if all(file.suffix in (*inference.ENDINGS, *weight_files.ENDINGS) for file in files):
            return cls._of_files(name, files)
        try:
            preset = find_preset(name)
        except InputError:
            known = [*PRESETS, *(folder.name for folder in places.finetunes())]
            raise InputError(
                f"No model {name!r}: neither a folder {Path(name).absolute()} or {places.models(name)}, nor one of "
                f"those that have a name ({', '.join(known)}).{suggest(name, known)}"
            ) from None
        inventory = Inventory.of_size(preset.name)
        return cls(name, preset.drawing, preset.name, inventory.folders[0], inventory, {})

    @classmethod
    def _of_folder(cls, name: str, folder: Path) -> Model:
        inventory = Inventory.of_folder(folder)
        description = folder / DESCRIPTION
        size = inventory.size or (name if name in PRESETS else None)
        if description.is_file():
            return cls(name, from_dict(Drawing, read_json(description)), size, folder, inventory, {})
        if size is None:
            raise InputError(
                f"{folder} has no {DESCRIPTION}, which says at what size and with what settings it draws, and no "
                f"Stage C of a known size ({', '.join(PRESETS)})."
            )
        return cls(name, PRESETS[size].drawing, size, folder, inventory, {})

    @classmethod
    def _of_files(cls, name: str, files: list[Path]) -> Model:
        named = inference.read(files)
        inventory = Inventory.of_parts(named.parts)
        size = named.size or inventory.size
        if size is None:
            raise InputError(
                f"{name}: there is no model_version, and no Stage C of a known size ({', '.join(PRESETS)})."
            )
        return cls(name, PRESETS[size].drawing, size, files[0].parent, inventory.completed(size), named.settings)

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell its weights from others': a hash of each file's size and edges."""
        parts = [part for role, part in sorted(self.inventory.parts.items()) if role in official.FILES]
        return weight_files.identity(dict.fromkeys(path for part in parts for path in part.header.files))

    def network(self, role: str) -> Weights:
        """The weights of a network by its role, a key of `ROLES`. Raises `InputError` if they are missing."""
        part = self._part(role)
        return Weights(part, config_of(part))

    def text(self) -> TowerWeights:
        """The text tower, with a `TextConfig`, and where its tokenizer is. Raises `InputError` if either is missing."""
        part = self._part("text")
        folder = self.inventory.beside(part, FOLDERS["text"], TOKENIZER[:2])
        if folder is None:
            raise InputError(
                f"{part.path} holds a text tower, but there is no tokenizer (tokenizer.json, or vocab.json with "
                f"merges.txt) beside it. {_remedy(self.size, 'text')}"
            )
        settings = tower_settings(part, self.inventory)
        return TowerWeights(part, config_of(part), folder, settings)

    def image(self) -> TowerWeights:
        """The image tower, with a `VisionConfig`. Raises `InputError` if it is missing."""
        part = self._part("image")
        folder = self.inventory.beside(part, FOLDERS["image"], (PREPARATION,)) or part.path.parent
        settings = _settings(folder / PREPARATION)
        return TowerWeights(part, config_of(part), folder, settings)

    def require(self, command: str) -> None:
        """Raises one `InputError` for all parts that a command needs and that are not there."""
        missing = [role for role in NEEDS[command] if role != "tokenizer" and role not in self.inventory.parts]
        if len(missing) > 1:
            looked = ", ".join(map(str, self.inventory.folders)) or "the given files"
            remedy = f"'littlecascade models verify {self.name}' says more."
            if self.size in places.STAGES:
                remedy = f"'littlecascade models download {self.size}' fetches them. {remedy}"
            said = [f"Model {self.name!r} has no {', '.join(missing)}: looked in {looked}."]
            raise InputError(" ".join([*said, *self.inventory.problems.values(), remedy]))
        for role in missing:
            self._part(role)

    def _part(self, role: str) -> Part:
        """Raises `InputError` that lists every path tried, what is there instead, and what to do."""
        if role in self.inventory.parts:
            return self.inventory.parts[role]
        tried = self.inventory.expected(role, self.size)
        looked = ", ".join(map(str, tried)) or "it in the given files"
        instead = [f"{part.path} is {describe(part)}." for part in self.inventory.instead(role, self.size)]
        said = [
            f"Model {self.name!r} has no {role}: looked for {looked}, and at all other weight files beside them.",
            *self.inventory.problems.values(),
            *instead,
            _remedy(self.size, role),
        ]
        raise InputError(" ".join(said))


def config_of(part: Part) -> Any:
    """The configuration of a network or tower. What shapes do not show is as in the named size with the same shapes.

    Raises `InputError` where neither the file nor its shapes tell it.
    """
    tower = {"text": TextConfig, "image": VisionConfig}.get(part.role)
    beside = _settings(part.path.parent / CONFIG) if tower and part.format != "comfy" else {}
    if tower and beside:
        return tower.from_transformers(beside)
    if part.config is None:
        raise InputError(f"{part.path} does not say how its {part.role} is built, and its shapes don't tell.")
    alike = [] if part.told else sizes(part)
    if alike:
        return getattr(PRESETS[alike[0]], part.role)
    try:
        return from_dict(tower or ROLES[part.role].config, part.config)
    except InputError as error:
        raise InputError(f"{part.path} does not say all of how its {part.role} is built: {error}") from None


def tower_settings(part: Part, inventory: Inventory) -> dict[str, Any]:
    """A tower's config.json, beside its weights or else in a folder of its own."""
    folder = inventory.beside(part, FOLDERS[part.role], (CONFIG,))
    return {} if folder is None else _settings(folder / CONFIG)


def _settings(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _remedy(size: str | None, role: str) -> str:
    """What to do about a part that is missing."""
    if size in places.STAGES:
        return f"'littlecascade models download {size} --only {role}' fetches it."
    return "'littlecascade models show FILE' says what a file is."
