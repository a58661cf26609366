"""The tokenizer against transformers' CLIPTokenizer, on a small vocabulary trained here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littlecascade.conditioning.tokenizer import BOS, EOS, ClipTokenizer, train
from littlecascade.errors import InputError

SAMPLES = [
    *("", " \n\t ", "A red  apple", "don't WE'LL 1234 go!!", "...", "a.b,c;d--e"),
    *("éclaIR naïve ẞ İ ﬁ", "e\u0301 caf\u00e9", "日本語 한국", "🙂🙃 smile", "👨‍👩‍👧‍👦 family", "ǅ", "\x00\x7f ok"),
    *("\u00a0no\u2003break\u200b", "<|endoftext|> in the text", "word " * 100),
]


@pytest.fixture(scope="module")
def reference(tokenizer_folder: Path):
    return pytest.importorskip("transformers").CLIPTokenizer.from_pretrained(tokenizer_folder)


@pytest.mark.parametrize("text", SAMPLES)
def test_equals_transformers(tokenizer_folder: Path, reference, text: str) -> None:
    loaded = ClipTokenizer.load(tokenizer_folder)
    ours = loaded.collate(loaded.chunks(text, 75)[:1], 77)
    theirs = reference(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    assert ours.ids[0, :60].tolist() == theirs.input_ids[0, :60].tolist()
    if len(loaded.encode(text)) <= 75:
        assert ours.ids.tolist() == theirs.input_ids.tolist()
        assert ours.mask.tolist() == theirs.attention_mask.bool().tolist()


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_equals_transformers_on_any_text(tokenizer: ClipTokenizer, reference, text: str) -> None:
    assert tokenizer.encode(text) == reference(text, add_special_tokens=False).input_ids


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40).filter(lambda text: "<|" not in text))  # special tokens may be written out
def test_no_text_has_an_unknown_token(tokenizer: ClipTokenizer, text: str) -> None:
    assert not {tokenizer.bos, tokenizer.eos} & set(tokenizer.encode(text))


def test_vocabulary_is_laid_out_as_in_clip(tokenizer: ClipTokenizer) -> None:
    vocabulary = tokenizer.vocabulary
    assert sorted(vocabulary.values()) == list(range(660))
    assert (vocabulary[BOS], vocabulary[EOS]) == (658, 659) == (tokenizer.bos, tokenizer.eos)
    by_id = {number: token for token, number in vocabulary.items()}
    assert [by_id[256 + i] for i in range(256)] == [by_id[i] + "</w>" for i in range(256)]
    assert "apple</w>" in vocabulary


def test_older_files_are_read_alike(tokenizer: ClipTokenizer, tokenizer_folder: Path, tmp_path: Path) -> None:
    model = json.loads((tokenizer_folder / "tokenizer.json").read_text("utf-8"))["model"]
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"] | {BOS: 658, EOS: 659}), "utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + merges, "utf-8")
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": {"content": "!"}}', "utf-8")
    older = ClipTokenizer.load(tmp_path)
    assert all(older.encode(text) == tokenizer.encode(text) for text in SAMPLES)
    assert older.pad == older.vocabulary["!"]
    assert older.collate([[5]], 5).ids.tolist() == [[658, 5, 659, older.pad, older.pad]]


def test_decode_reverses_encode(tokenizer: ClipTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("A red  APPLE, 🙂 smile")) == "a red apple , 🙂 smile"


@pytest.mark.parametrize("length", [3, 5, 22, 75])
def test_chunks_hold_every_token_and_cut_between_words(tokenizer: ClipTokenizer, length: int) -> None:
    text = "strawberries and cream under a purple umbrella, " * 9
    ids = tokenizer.encode(text)
    chunks = tokenizer.chunks(text, length)
    assert [token for chunk in chunks for token in chunk] == ids
    assert max(map(len, chunks)) <= length
    if length > 3:  # no word of this text is longer
        assert all(tokenizer.decode(chunk + ids[:1])[-1:] for chunk in chunks)
        words = [word for chunk in chunks for word in tokenizer.decode(chunk).split()]
        assert words == tokenizer.decode(ids).split()


def test_a_word_longer_than_a_chunk_is_cut(tokenizer: ClipTokenizer) -> None:
    chunks = tokenizer.chunks("zqxjk" * 5, 4)
    assert [len(chunk) for chunk in chunks[:-1]] == [4] * (len(chunks) - 1)
    assert len(chunks) > 1


def test_an_empty_text_is_one_empty_chunk(tokenizer: ClipTokenizer) -> None:
    assert tokenizer.chunks("  ", 75) == [[]]
    ids, mask = tokenizer.collate([[]], 4)
    assert ids.tolist() == [[658, 659, 659, 659]]
    assert mask.tolist() == [[True, True, False, False]]


def test_mistakes_are_told(tokenizer: ClipTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"looked for tokenizer\.json"):
        ClipTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(InputError, match="can't be read"):
        ClipTokenizer.load(tmp_path)
    with pytest.raises(InputError, match="10 tokens does not fit into 9"):
        tokenizer.collate([[1] * 8], 9)
    with pytest.raises(InputError, match="more than 514"):
        train(["a"], 514)
    with pytest.raises(InputError, match="were asked for"):
        train(["apple apple"], 5000)
