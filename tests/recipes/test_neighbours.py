from __future__ import annotations

import doctest
import importlib
import io
import json
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

from littlecascade.checkpoint import files

RECIPE = Path(__file__).parents[2] / "recipes" / "emoji"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(RECIPE)
    return importlib.import_module("neighbours")


NAMES = ["dog", "sailboat"]
WORDS = {  # where each lies on a circle, in degrees: dog is at 0, sailboat at 90
    "canine": 10,
    "doggy": 5,  # looks like the name
    "yachting": 80,  # looks like a held-out word
    "boating": 70,
    "idea": 180,  # too far from all
}


def at(degrees: float) -> list[float]:
    angle = torch.deg2rad(torch.tensor(float(degrees)))
    return [float(angle.cos()) * 3, float(angle.sin()) * 3]  # lengths don't count


def teacher() -> tuple[list[str], torch.Tensor, torch.Tensor]:
    texts = [*NAMES, *WORDS, "a dog"]
    embeddings = torch.tensor([at(0), at(90), *map(at, WORDS.values()), at(1)])
    return texts, embeddings, torch.tensor([0, 0, *[1] * len(WORDS), 0])


def test_neighbours_are_near_and_look_like_neither_the_name_nor_a_held_out_word(recipe: ModuleType) -> None:
    texts, embeddings, kinds = teacher()
    assert recipe.neighbours(NAMES, texts, embeddings, kinds, ["yacht"]) == {"dog": ["canine"], "sailboat": ["boating"]}
    assert recipe.neighbours(["dog", "missing"], texts, embeddings, kinds, [])["dog"] == ["canine"]


def test_a_name_has_the_nearest_few(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "NEAREST", 2)
    embeddings = torch.tensor([at(0), at(30), at(10), at(20)])
    found = recipe.neighbours(["dog"], ["dog", "far", "near", "middle"], embeddings, torch.tensor([0, 1, 1, 1]), [])
    assert found == {"dog": ["near", "middle"]}


def test_shards_get_the_words_once_and_keep_the_rest(recipe: ModuleType, tmp_path: Path, capsys) -> None:
    data, text = tmp_path / "data", tmp_path / "text"
    data.mkdir()
    facts = {"a": {"name": "blue dog", "colour": "blue"}, "b": {"name": "pizza", "colour": None}}
    members = {}
    for key, value in facts.items():
        members |= {f"{key}.webp": b"picture " + key.encode(), f"{key}.txt": b"one\ntwo\n"}
        members[f"{key}.json"] = json.dumps(value).encode()
    with tarfile.open(data / "train-000.tar", "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (data / "names.json").write_text(json.dumps({name: {} for name in NAMES}))
    (data / "synonyms.json").write_text(json.dumps({"yacht": "sailboat"}))
    texts, embeddings, kinds = teacher()
    files.save(text / "teacher.safetensors", {"embeddings": embeddings, "kinds": kinds})
    (text / "texts.txt").write_text("".join(f"{line}\n" for line in texts))
    words = ["--data", str(data), "--text", str(text)]
    assert recipe.main(words) == 0
    assert json.loads(capsys.readouterr().out) == {"names": 2, "words": 2, "pictures": 1}

    def content() -> dict[str, bytes]:
        with tarfile.open(data / "train-000.tar") as archive:
            return {member.name: archive.extractfile(member).read() for member in archive}

    expected = members | {"a.txt": b"one\ntwo\n" + b"blue canine\n" * 4}
    assert content() == expected
    assert list(content()) == list(members)
    assert recipe.main(words) == 0
    assert "have their neighbours" in capsys.readouterr().err
    assert content() == expected


def test_documented_examples_hold(recipe: ModuleType) -> None:
    assert doctest.testmod(recipe).failed == 0
