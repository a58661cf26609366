"""The openly licensed packages that the pictures and their names come from, and how to read each one's art."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from names import Emoji, plain_code


@dataclass(frozen=True)
class Package:
    """A pinned npm package: its licence (SPDX) must be the one expected, its archive must have this SHA-256."""

    name: str
    version: str
    licence: str
    sha256: str
    work: str
    author: str
    url: str


@dataclass(frozen=True)
class Art:
    """One emoji as drawn in one style: either SVG text or the path of a raster picture."""

    code: str
    svg: str | None = None
    raster: Path | None = None


@dataclass(frozen=True)
class Style:
    """A style of drawing: `phrases` say it in a caption (`{}` is the name); `excluded` subgroups are left out."""

    name: str
    package: Package
    read: Callable[[Path], Iterator[Art]]
    phrases: tuple[str, ...]
    excluded: frozenset[str] = frozenset()

    def accepts(self, emoji: Emoji) -> bool:
        """Whether the style's picture of `emoji` may be used."""
        return emoji.subgroup not in self.excluded


def read_iconify(folder: Path) -> Iterator[Art]:
    """The pictures of an Iconify set that stand for a code point; flipped or rotated aliases are left out."""
    icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    chars = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
    for code, name in sorted(chars.items()):
        icon = icons["icons"].get(name)
        if icon is None:
            continue
        left, top = icon.get("left", 0), icon.get("top", 0)
        width = icon.get("width", icons.get("width", 16))
        height = icon.get("height", icons.get("height", 16))
        box = f"{left} {top} {width} {height}"
        namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        svg = f'<svg {namespaces} width="{width}" height="{height}" viewBox="{box}">{icon["body"]}</svg>'
        yield Art(plain_code(code), svg=svg)


def read_files(folder: Path) -> Iterator[Art]:
    """The pictures of a package that holds one raster file for each code: `assets/1f355.webp`."""
    for path in sorted((folder / "assets").glob("*.webp")):
        yield Art(plain_code(path.stem), raster=path)


NOTO = Package(
    "@iconify-json/noto",
    "1.2.9",
    "Apache-2.0",
    "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "Noto Emoji",
    "Google Inc.",
    "https://github.com/googlefonts/noto-emoji",
)
TWEMOJI = Package(
    "@iconify-json/twemoji",
    "1.2.5",
    "CC-BY-4.0",
    "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    "Twemoji",
    "Twitter, Inc. and other contributors",
    "https://github.com/jdecked/twemoji",
)
FLUENT_FLAT = Package(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "MIT",
    "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    "Fluent Emoji (flat)",
    "Microsoft Corporation",
    "https://github.com/microsoft/fluentui-emoji",
)
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "MIT",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    "Fluent Emoji (3D)",
    "Microsoft Corporation, packaged by LobeHub",
    "https://github.com/microsoft/fluentui-emoji",
)
EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "MIT",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    "Emojibase (names, groups, tags)",
    "Miles Johnson",
    "https://github.com/milesj/emojibase",
)
EMOJILIB = Package(
    "emojilib",
    "4.0.3",
    "MIT",
    "7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
    "Emojilib (keywords)",
    "Mu-An Chiou",
    "https://github.com/muan/emojilib",
)

COUNTRIES = frozenset({"country-flag", "subdivision-flag"})
STYLES = (
    Style("noto", NOTO, read_iconify, ("{}, noto style", "{} in noto style", "noto {}")),
    Style("twemoji", TWEMOJI, read_iconify, ("{}, twemoji style", "{} in twemoji style", "twemoji {}")),
    Style("flat", FLUENT_FLAT, read_iconify, ("{}, flat style", "{} in flat style", "flat icon of {}")),
    Style("3d", FLUENT_3D, read_files, ("{}, 3d style", "{} in 3d style", "3d render of {}"), excluded=COUNTRIES),
)
PACKAGES = (*(style.package for style in STYLES), EMOJIBASE, EMOJILIB)
