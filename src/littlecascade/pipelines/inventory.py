"""Which weights lie in the places where a model's are looked for, and which of them it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from littlecascade.checkpoint import places
from littlecascade.checkpoint.formats import official
from littlecascade.checkpoint.recognise import Part, recognise, weight_files
from littlecascade.errors import InputError
from littlecascade.presets import sizes_of


@dataclass(frozen=True)
class Inventory:
    """What was found: the part taken for each role, others that were passed over, and files that can't be read.

    folders: where it was looked, the first one first.
    """

    folders: tuple[Path, ...]
    parts: Mapping[str, Part]
    others: tuple[Part, ...] = ()
    problems: Mapping[Path, str] = field(default_factory=dict)

    @classmethod
    def of_folder(cls, folder: Path) -> Inventory:
        """Of a folder and those in it. Of several files for one role it takes the largest network's."""
        return cls._of_folders([folder], None)

    @classmethod
    def of_size(cls, size: str) -> Inventory:
        """Of the package, the user's models and the Hugging Face cache, as far as it has the shapes of `size`."""
        packaged = [folder for folder in [places.packaged(size)] if folder.is_dir()]
        return cls._of_folders([*packaged, *places.installed(size)], size)

    @classmethod
    def of_parts(cls, parts: Iterable[Part]) -> Inventory:
        """Of parts of which the first of each role is taken."""
        taken: dict[str, Part] = {}
        others = [part for part in parts if taken.setdefault(part.role, part) is not part]
        return cls((), taken, tuple(others))

    @classmethod
    def _of_folders(cls, folders: Iterable[Path], size: str | None) -> Inventory:
        folders = tuple(folders)
        seen: dict[Path, None] = {}
        wanted: list[Part] = []
        others: list[Part] = []
        problems: dict[Path, str] = {}
        for folder in folders:
            files = [path for path in weight_files(folder) if path not in seen] if folder.is_dir() else []
            seen |= dict.fromkeys(files)
            found: list[Part] = []
            for path in files:
                try:
                    found += recognise(path)
                except (InputError, OSError) as error:
                    problems[path] = str(error)
            fits = [part for part in found if size is None or size in sizes(part)]
            wanted += sorted(fits, key=_preference)
            others += [part for part in found if part not in fits]
        chosen = cls.of_parts(wanted)
        return replace(chosen, folders=folders, others=(*chosen.others, *others), problems=problems)

    @cached_property
    def size(self) -> str | None:
        """The named size of its Stage C."""
        known = sizes(self.parts["stage_c"]) if "stage_c" in self.parts else []
        return known[0] if known else None

    def completed(self, size: str) -> Inventory:
        """This one, and for the roles that it lacks what is installed for a size."""
        installed = Inventory.of_size(size)
        return replace(installed, parts={**installed.parts, **self.parts}, others=(*self.others, *installed.others))

    def expected(self, role: str, size: str | None) -> list[Path]:
        """The paths of a part in its folders under the names of the official release, or else ours."""
        if size not in places.STAGES or role in places.TOWERS:
            names = [official.FILES[role]]
        else:
            names = list(dict.fromkeys(places.published(role, size, precision) for precision in places.PRECISIONS))
        return [folder / name for folder in self.folders for name in names]

    def instead(self, role: str, size: str | None) -> list[Part]:
        """The parts of another size than is wanted, and those that have a name to which they are not entitled."""
        paths = self.expected(role, size)
        return [part for part in (*self.parts.values(), *self.others) if part.role == role or part.path in paths]

    def beside(self, part: Part, folders: Iterable[str], files: Iterable[str]) -> Path | None:
        """The first folder near a part's file, or where else it was looked, that has one of these files."""
        near = (part.path.parent, part.path.parent.parent, *self.folders)
        candidates = [place for folder in near for place in (folder, *(folder / name for name in folders))]
        return next((place for place in candidates if any((place / file).is_file() for file in files)), None)


def parts_of(path: Path) -> list[Part]:
    """The parts in one weight file. Raises `InputError` if there is none, or it can't be read."""
    parts = recognise(path)
    if not parts:
        raise InputError(f"{path} is no part of a cascade that is known here: its tensors have other names.")
    return parts


def sizes(part: Part) -> list[str]:
    """The named sizes that a part's shapes fit."""
    return [] if part.config is None else sizes_of(part.role, part.config)


def describe(part: Part) -> str:
    """What a part is, in a few words: `stage_b (lite)`."""
    return f"{part.role} ({' or '.join(sizes(part)) or 'of no named size'})"


def _preference(part: Part) -> tuple[int, int, str]:
    """Large networks before small ones, and of one network the file with the fewest bytes per value."""
    return -part.parameters, part.size, str(part.path)
