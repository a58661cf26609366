from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path

import pytest

from littlecascade.data.captions import STYLES, Table, Wording, captions_of, find_style, words_of
from littlecascade.data.sources import find_samples
from littlecascade.errors import InputError


def test_the_styles() -> None:
    assert len(set(STYLES)) == 25
    assert [find_style(style.upper()) for style in STYLES] == list(STYLES)
    with pytest.raises(InputError, match="Did you mean 'Watercolor'"):
        find_style("Watercolour")


def test_labels_and_style_read_as_in_the_forks_tool() -> None:
    """Its readme has a sample: style first, then the labels."""
    wording = Wording(style="Futurism", labels=("postapocalyptic", "city", "desolated"))
    assert wording.apply([]) == ["Futurism, postapocalyptic, city, desolated"]
    assert wording.apply(["a city at night"]) == ["Futurism, a city at night, postapocalyptic, desolated"]
    assert Wording().apply([]) == []


def test_a_trigger_is_put_into_every_alternative_once() -> None:
    wording = Wording("rex")
    assert wording.apply(["a dog", "Rex asleep", "a t-rex, rexes"]) == ["rex, a dog", "Rex asleep", "a t-rex, rexes"]
    assert wording.apply(["rexes"]) == ["rex, rexes"]
    assert Wording("[rex]").apply(["a dog [rex] runs", "rex"]) == ["a dog [rex] runs", "[rex], rex"]
    assert wording.apply([]) == ["rex"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("red_apple-03", ["red apple"]),
        ("a.b (2)", ["a b"]),
        ("été--à la_plage", ["été à la plage"]),
        ("route66", ["route66"]),
        ("2001_a_space_odyssey", ["2001 a space odyssey"]),
        ("0001", []),
        ("--", []),
        ("", []),
    ],
)
def test_names_as_words(name: str, words: list[str]) -> None:
    assert words_of(name) == words


def test_every_way_from_names_and_sidecars(tmp_path: Path) -> None:
    (tmp_path / "ripe fruit").mkdir()
    for name in ("top-1", "ripe fruit/apple_2", "json", "both", "list"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    (tmp_path / "json.json").write_text(json.dumps({"prompt": "third", "text": " second\nline ", "score": 1}))
    (tmp_path / "both.json").write_text(json.dumps({"caption": "unused"}))
    (tmp_path / "both.txt").write_text("one\n\ntwo\n")
    (tmp_path / "list.json").write_text(json.dumps({"caption": ["a", 3, "b"]}))
    samples = {sample.name: sample for sample in find_samples(str(tmp_path))}

    def found(way: str) -> dict[str, list[str]]:
        return {name: captions_of(sample, way, sample.metadata()) for name, sample in samples.items()}

    assert found("sidecar") == {
        "both.png": ["one", "two"],
        "json.png": ["second line"],
        "list.png": ["a", "b"],
        "ripe fruit/apple_2.png": [],
        "top-1.png": [],
    }
    assert found("name")["ripe fruit/apple_2.png"] == ["apple"]
    assert found("folder") == {name: [] for name in samples} | {"ripe fruit/apple_2.png": ["ripe fruit"]}


@pytest.mark.parametrize(
    "text",
    [
        'file,caption\na/x.png,"red, round"\ny,green\n',
        "\ufeffCaption;score;File_Name\r\nred, round;1;a\\x.png\r\ngreen;2;y.png\r\n",
        "text\timage\nred, round\tx.png\ngreen\tb/y\n",
    ],
)
def test_tables_of_any_kind(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    assert Table.read(path).match(["a/x.png", "b/y.png", "b/z.png"]) == ([["red, round"], ["green"], []], [])


def test_rows_of_one_file_are_alternatives_and_others_are_named(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text("file\tcaption\nx.png\tone\nx.png\ttwo\nlost.png\tthree\ny.png\t\nshort\n")
    assert Table.read(path).match(["x.png", "y.png"]) == ([["one", "two"], []], ["lost.png"])


def test_a_parquet_table(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "table.parquet"
    columns = {"score": [1.0, 2.0], "path": ["x.png", "y.png"], "caption": [["one", "two"], None]}
    parquet.write_table(pyarrow.table(columns), path)
    assert Table.read(path).match(["x.png", "y.png"]) == ([["one", "two"], []], [])
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match="can't be read as a parquet file"):
        Table.read(path)


def test_parquet_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.parquet"
    path.touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name: str, *arguments: object, **keywords: object) -> object:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="takes pyarrow: pip install"):
        Table.read(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("picture,caption\nx.png,a\n", "has no column of files: call it 'file'. It has picture, caption."),
        ("file,words\nx.png,a\n", "has no column of captions: call it 'caption'. It has file, words."),
        ("", "has no column of files"),
        ("file,caption\n", "has no row"),
        ("file,caption\nz.png,a\n", "names none of the pictures: a row of it is for 'z.png', a picture is 'a/x.png'"),
        ("file,caption\nx.png,a\n", "'x.png' could be of any of 2 pictures, such as 'a/x.png'"),
        ("file,caption\nx.png,\xe4\n", "can't be read as a table in UTF-8"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        Table.read(path).match(["a/x.png", "b/x.png"])
    assert said in str(caught.value)


def test_a_missing_table_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").touch()
    with pytest.raises(InputError, match=r"Did you mean 'captions\.csv'"):
        Table.read(tmp_path / "caption.csv")
