"""A bar, and where the terminal can show it the picture so far, while a cascade draws."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from littlecascade.cli.preview import Screen, shows_pictures

if TYPE_CHECKING:
    from PIL import Image

_BAR = 24  # characters


class Progress:
    """A callback for `Cascade.generate` that redraws one bar on `stream`, and erases it when the `with` block ends.

    Silent if `stream` is no terminal. `pictures` asks for the live preview, which needs a terminal with 24-bit colour.
    """

    def __init__(self, stream: TextIO, *, pictures: bool = True) -> None:
        self._screen = Screen(stream) if stream.isatty() else None
        self._pictures = pictures and shows_pictures(stream)

    def __call__(self, stage: str, step: int, steps: int, preview: Callable[[], Image.Image]) -> None:
        if self._screen is None:
            return
        filled = _BAR * step // steps
        picture = preview() if self._pictures else None
        self._screen.show(f"Stage {stage.upper()} {'#' * filled}{'.' * (_BAR - filled)} {step}/{steps}", picture)

    def clear(self) -> None:
        """Erase what is shown, so that other text can be written."""
        if self._screen is not None:
            self._screen.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
