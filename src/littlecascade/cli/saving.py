"""What becomes of pictures as they are finished, so that none is lost to what comes after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from littlecascade import __version__
from littlecascade.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from littlecascade.cli.progress import Progress
    from littlecascade.recipe import Recipe


class Saver(ABC):
    """Takes pictures and writes them. As a context, it says with an error how many are finished, and where."""

    def __init__(self, paths: Sequence[Path], total: int, progress: Progress) -> None:
        self.paths, self.total, self.finished = paths, total, 0
        self._progress = progress

    @abstractmethod
    def add(self, place: int, image: Image.Image, recipe: Recipe, remark: str = "") -> None:
        """Take the picture of a place, counted from 0."""

    def tell(self, path: Path, remark: str = "") -> None:
        """Print a path, and whatever is to be said of it."""
        self._progress.clear()
        print(path, *([remark] if remark else []), sep="  ", flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and (self.finished or not isinstance(error, InputError)):
            where = f", in {self.paths[0].parent.resolve()}" if self.finished else ""
            error.add_note(f"{self.finished} of {self.total} pictures are finished{where}")


class Files(Saver):
    """Writes each picture at once, to a file of its own."""

    def __init__(self, paths: Sequence[Path], progress: Progress) -> None:
        super().__init__(paths, len(paths), progress)

    def add(self, place: int, image: Image.Image, recipe: Recipe, remark: str = "") -> None:
        from littlecascade.recipe import save_png

        save_png(image, self.paths[place], recipe)
        self.finished += 1
        self.tell(self.paths[place], remark)


class OneFile(Saver):
    """Writes one file with all pictures, as `arrange` puts them together; if it ends early, with those there are."""

    def __init__(
        self, path: Path, total: int, progress: Progress, arrange: Callable[[Mapping[int, Image.Image]], Image.Image]
    ) -> None:
        super().__init__([path], total, progress)
        self._arrange = arrange
        self._images: dict[int, Image.Image] = {}
        self._recipes: dict[int, Recipe] = {}

    def add(self, place: int, image: Image.Image, recipe: Recipe, remark: str = "") -> None:
        self._images[place], self._recipes[place] = image, recipe
        self.finished += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if not self._images:
            return
        from littlecascade.recipe import save_png

        recipes = [self._recipes[place] for place in sorted(self._recipes)]
        save_png(
            self._arrange(self._images),
            self.paths[0],
            {"littlecascade": __version__, "task": "sheet", "pictures": recipes},
        )
        self.tell(self.paths[0])
