"""Where captions come from: files beside the pictures, a table, or names; and what is put around them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from littlecascade.data.samples import Sample
from littlecascade.errors import InputError, suggest

SIDECAR, NAME, FOLDER = "sidecar", "name", "folder"
WAYS = (SIDECAR, NAME, FOLDER)
"""What a caption can be taken from without a table: the files beside a picture, its file's name, its folder's name."""
CAPTION_FIELDS = ("caption", "text", "prompt")
"""The fields of a JSON member that may hold the caption; the first that is there counts."""
TABLES = (".csv", ".tsv", ".parquet")
_FILE_COLUMNS = ("file", "file_name", "filename", "path", "image", "image_path", "name", "key")
_CAPTION_COLUMNS = (*CAPTION_FIELDS, "description", "captions")

STYLES = (
    *("Photo", "Anime", "Comics", "Sketch", "Watercolor", "Oil Painting", "Charcoal", "Pastel", "Digital Art"),
    *("Pixel Art", "Abstract", "Realism", "Surrealism", "Pop Art", "Minimalism", "Cubism", "Impressionism"),
    *("Expressionism", "Art Nouveau", "Art Deco", "Graffiti", "Collage", "Dada", "Futurism", "Conceptual Art"),
)


def find_style(name: str) -> str:
    """The style of this name, written as in `STYLES`; upper and lower case are taken alike. Raises `InputError`.

    >>> find_style("oil painting")
    'Oil Painting'
    """
    by_folded = {style.casefold(): style for style in STYLES}
    style = by_folded.get(name.strip().casefold())
    if style is None:
        raise InputError(f"There is no style {name!r}.{suggest(name, STYLES)} Those are {', '.join(STYLES)}.")
    return style


@dataclass(frozen=True)
class Wording:
    """What is put around every caption: a trigger token and a style before it, labels behind it."""

    trigger: str = ""
    style: str = ""
    labels: tuple[str, ...] = ()

    def apply(self, captions: Sequence[str]) -> list[str]:
        """Each caption with the rest around it, commas between; without any, the rest alone if there is some.

        What a caption says already is not added again.

        >>> Wording("[rex]", "Photo", ("outdoors",)).apply(["a dog", "[rex] outdoors"])
        ['[rex], Photo, a dog, outdoors', 'Photo, [rex] outdoors']
        """
        worded = (self._around(caption) for caption in captions or [""])
        return [caption for caption in worded if caption]

    def _around(self, caption: str) -> str:
        before = [word for word in (self.trigger, self.style) if word and not _says(caption, word)]
        behind = [word for word in self.labels if not _says(caption, word)]
        return ", ".join([*before, *([caption] if caption else []), *behind])


def _says(caption: str, word: str) -> bool:
    """Whether a caption has a word, or several in a row, as words of their own."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption, re.IGNORECASE) is not None


def captions_of(sample: Sample, way: str, fields: Mapping[str, Any]) -> list[str]:
    """The captions of a sample in one of `WAYS`; `fields` are those of its JSON member. Alternatives, or none."""
    path = _path(sample.name)
    if way == NAME:
        return words_of(path.stem)
    if way == FOLDER:
        return words_of(path.parent.name)
    return sample.captions() or _lines(next((fields[key] for key in CAPTION_FIELDS if key in fields), ""))


def words_of(name: str) -> list[str]:
    """The caption that a file's or folder's name spells out, without the number that tells it apart; none if no letter.

    >>> words_of("red_apple-on--a.table (03)"), words_of("IMG_2024"), words_of("0001")
    (['red apple on a table'], ['IMG'], [])
    """
    words = re.sub(r"[\W_]+", " ", name).strip()
    words = re.sub(r"(?:^|\s)\d+$", "", words).strip()
    return [words] if any(sign.isalpha() for sign in words) else []


def _lines(value: object) -> list[str]:
    """A caption or a list of captions as lines of their own; other values are none."""
    texts = value if isinstance(value, list) else [value]
    return [" ".join(text.split()) for text in texts if isinstance(text, str) and text.strip()]


@dataclass(frozen=True)
class Table:
    """Captions by file, each file named by its path from the folder or by its name, with or without the suffix."""

    path: Path
    rows: Mapping[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read a csv, tsv or parquet file with a column of files and one of captions. Raises `InputError`.

        Several rows of one file are alternatives.
        """
        if not path.is_file():
            beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            tables = [name for name in beside if Path(name).suffix.lower() in TABLES]
            raise InputError(f"There is no table of captions {str(path)!r}.{suggest(path.name, tables)}")
        read = _parquet_rows if path.suffix.lower() == ".parquet" else _csv_rows
        rows: dict[str, list[str]] = {}
        for name, caption in read(path):
            rows.setdefault(str(_path(name.strip())), []).extend(_lines(caption))
        if not rows:
            raise InputError(f"The table of captions {str(path)!r} has no row.")
        return cls(path, rows)

    def match(self, names: Sequence[str]) -> tuple[list[list[str]], list[str]]:
        """The captions of each of the pictures with these paths from the folder, and the rows that name none of them.

        Raises `InputError` if no row names a picture, or if one could be of several.
        """
        bare = Counter(key for name in map(_path, names) for key in {name.name, name.stem})
        keys = [self._key(_path(name), bare) for name in names]
        unused = sorted(self.rows.keys() - set(keys))
        if not any(keys):
            raise InputError(
                f"{str(self.path)!r} names none of the pictures: a row of it is for {unused[0]!r}, "
                f"a picture is {names[0]!r}."
            )
        return [self.rows[key] if key else [] for key in keys], unused

    def _key(self, path: PurePosixPath, bare: Mapping[str, int]) -> str:
        """The key of a picture's row, or nothing."""
        exact = next((key for key in (str(path), str(path.with_suffix(""))) if key in self.rows), None)
        if exact is not None:
            return exact
        key = next((key for key in (path.name, path.stem) if key in self.rows), "")
        if bare.get(key, 0) > 1:
            raise InputError(
                f"{str(self.path)!r}: the row of {key!r} could be of any of {bare[key]} pictures, such as '{path}': "
                "give their paths from the folder."
            )
        return key


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))


def _csv_rows(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            header = handle.readline()
            handle.seek(0)
            reader = csv.reader(handle, delimiter=max(",;\t|", key=header.count))
            file, caption = _columns(path, next(reader, []))
            for row in reader:
                if len(row) > max(file, caption):
                    yield row[file], row[caption]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} can't be read as a table in UTF-8: {error}.") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise InputError(
            f"{str(path)!r}: reading parquet takes pyarrow: pip install 'littlecascade[parquet]', or save it as .csv."
        ) from None
    try:
        with parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            chosen = [names[index] for index in _columns(path, names)]
            for batch in table.iter_batches(columns=chosen):
                files, captions = (batch.column(name).to_pylist() for name in chosen)
                yield from ((str(file), caption) for file, caption in zip(files, captions, strict=True))
    except (ArrowException, OSError) as error:
        raise InputError(f"{str(path)!r} can't be read as a parquet file: {error}.") from None


def _columns(path: Path, names: Sequence[str]) -> tuple[int, int]:
    """Which columns hold files and captions. Raises `InputError` where that can't be told."""
    folded = [name.strip().casefold() for name in names]
    found: list[int] = []
    for what, accepted in (("files", _FILE_COLUMNS), ("captions", _CAPTION_COLUMNS)):
        name = next((name for name in accepted if name in folded), None)
        if name is None:
            raise InputError(
                f"{str(path)!r} has no column of {what}: call it {accepted[0]!r}. It has {', '.join(names) or 'none'}."
            )
        found.append(folded.index(name))
    return found[0], found[1]
