from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from littlecascade.conditioning.clip import TextConfig, TextTower
from littlecascade.conditioning.prompts import Prompt, escape
from littlecascade.conditioning.text import TextEmbedding, TextEncoder
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.errors import InputError

LONG = "strawberries and cream under a purple umbrella, " * 4


def weights_of(source: str) -> dict[str, float]:
    """The weight of each word, which has to be the same for all of its letters."""
    prompt = Prompt.parse(source)
    found: dict[str, float] = {}
    for word in prompt.text.split():
        start = prompt.text.index(word)
        (weight,) = set(prompt.weights[start : start + len(word)])
        found[word] = weight
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a red apple", {"a": 1, "red": 1, "apple": 1}),
        ("a (red:1.3) apple", {"a": 1, "red": 1.3, "apple": 1}),
        ("a (red) apple", {"a": 1, "red": 1.1, "apple": 1}),
        ("a [red] apple", {"a": 1, "red": 1 / 1.1, "apple": 1}),
        ("((red)) apple", {"red": 1.1 * 1.1, "apple": 1}),
        ("([red]) apple", {"red": 1.0, "apple": 1}),
        ("(a (red:1.5) apple:0.5)", {"a": 0.5, "red": 0.75, "apple": 0.5}),
        ("(red : 2 )", {"red": 2}),
        ("(red:-1) (apple:0)", {"red": -1, "apple": 0}),
        ("flag: japan", {"flag:": 1, "japan": 1}),
        (r"\(red\) \[a\]", {"(red)": 1, "[a]": 1}),
        (r"(flag\: japan)", {"flag:": 1.1, "japan": 1.1}),
        (r"\\ \n", {"\\": 1, r"\n": 1}),
        ("() red", {"red": 1}),
    ],
)
def test_the_notation(source: str, expected: dict[str, float]) -> None:
    assert weights_of(source) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("a (red apple", "never closed"),
        ("a [red apple", "never closed"),
        ("a red) apple", "closes no bracket"),
        ("a (red] apple", "closes no bracket"),
        ("a (red:) apple", "'' is no weight"),
        ("a (red:1,3) apple", "'1,3' is no weight"),
        ("a (red:very) apple", "'very' is no weight"),
        ("a (red:nan) apple", "between -10 and 10"),
        ("a (red:1e9) apple", "between -10 and 10"),
        ("a [red:0.5] apple", "round brackets"),
    ],
)
def test_what_can_not_be_read_is_one_error_that_shows_the_place_and_the_way_out(source: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        Prompt.parse(source)
    assert repr(source) in str(caught.value)
    assert "backslash" in str(caught.value)


@given(st.text())
def test_escaped_text_is_read_as_it_stands(text: str) -> None:
    prompt = Prompt.parse(escape(text))
    assert prompt.text == text
    assert not prompt.weighted
    assert Prompt.parse(Prompt.plain(text).source) == Prompt.plain(text)


@given(st.text(alphabet="a b()[]:\\1.", max_size=20))
def test_every_source_is_read_or_told_off(source: str) -> None:
    try:
        prompt = Prompt.parse(source)
    except InputError:
        return
    assert len(prompt.text) == len(prompt.weights) <= len(source)
    assert prompt.source == source


@pytest.fixture
def encoder(tokenizer: ClipTokenizer) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(
        TextTower(TextConfig(vocab_size=660, width=24, depth=2, heads=3, projection=10, positions=20)), tokenizer
    )


def embed(encoder: TextEncoder, source: str, chunks: int | None = None) -> TextEmbedding:
    return encoder.encode([Prompt.parse(source)], chunks)


@pytest.mark.parametrize("source", ["a (red:1.0) apple", "([red]) apple", LONG + " (cat:1)"])
def test_a_weight_of_1_changes_no_bit(encoder: TextEncoder, source: str) -> None:
    weighted, plain = embed(encoder, source), encoder.encode([Prompt.parse(source).text])
    assert torch.equal(weighted.hidden, plain.hidden)
    assert torch.equal(weighted.pooled, plain.pooled)


@pytest.mark.parametrize("text", ["a red apple", LONG])
def test_a_weight_of_0_on_everything_is_the_empty_prompt(encoder: TextEncoder, text: str) -> None:
    nothing, empty = embed(encoder, f"({text}:0)"), encoder.encode([""], encoder.chunks(text))
    assert torch.equal(nothing.hidden, empty.hidden)
    assert torch.allclose(nothing.pooled, empty.pooled, atol=1e-6)


def test_each_token_moves_along_its_own_line(encoder: TextEncoder) -> None:
    """By hand: beginning, a, red, apple, end, then padding; the mean of 1, 1.6 and 1 is 1.2."""
    own, empty = encoder.encode(["a red apple"]), encoder.encode([""])
    weighted = embed(encoder, "a (red:1.6) apple")
    expected = torch.tensor([1.2, 1, 1.6, 1] + [1.2] * 16).view(1, 20, 1)
    torch.testing.assert_close(weighted.hidden, empty.hidden + expected * (own.hidden - empty.hidden))
    torch.testing.assert_close(weighted.pooled, empty.pooled + 1.2 * (own.pooled - empty.pooled))
    assert torch.equal(weighted.hidden[:, 1], own.hidden[:, 1])


def test_more_weight_goes_further(encoder: TextEncoder) -> None:
    empty = encoder.encode([""]).hidden
    lengths = [(embed(encoder, f"a (red:{w}) apple").hidden - empty)[0, 2].norm() for w in (0, 0.5, 1, 1.5, 2)]
    assert lengths == sorted(lengths)
    assert lengths[-1] == pytest.approx(4 * lengths[1])


def test_weights_survive_the_cut_into_chunks(encoder: TextEncoder) -> None:
    count = encoder.chunks(LONG)
    assert count > 1
    plain = encoder.encode([LONG + " a red apple"])
    weighted = embed(encoder, LONG + " a (red:1.5) apple")
    assert weighted.hidden.shape == plain.hidden.shape
    assert torch.equal(weighted.hidden[:, :20], plain.hidden[:, :20])  # the first chunk has no weight
    changed = (weighted.hidden - plain.hidden).abs().amax(-1)[0]
    ids = [
        id
        for chunk in encoder.tokenizer.chunks(LONG + " a red apple", 18)
        for id in [0, *chunk] + [0] * (19 - len(chunk))
    ]
    (place,) = [place for place, id in enumerate(ids) if id == encoder.tokenizer.encode("red")[0]]
    assert changed[place] > 0
    assert changed[place - 1] == changed[place + 1] == 0
    assert encoder.chunks(Prompt.parse(LONG + " a (red:1.5) apple")) == len(ids) // 20


def test_padding_to_more_chunks_is_not_weighted(encoder: TextEncoder) -> None:
    padded, alone = embed(encoder, "(red:1.5)", 2), embed(encoder, "(red:1.5)")
    assert torch.equal(padded.hidden[:, :20], alone.hidden)
    assert torch.equal(padded.hidden[:, 20:], encoder.encode([""]).hidden)
    assert torch.equal(padded.pooled, alone.pooled)


@pytest.mark.parametrize("text", ["É́clair  (🙂 İstanbul:1.5) 日本", "(ﬁsh:1.5) x", "x (👨‍👩‍👧:1.5)"])
def test_weights_find_their_tokens_in_any_writing(encoder: TextEncoder, text: str) -> None:
    prompt = Prompt.parse(text)
    starts = encoder.tokenizer.starts(prompt.text)
    assert len(starts) == len(encoder.tokenizer.encode(prompt.text))
    heavy = [
        id
        for id, start in zip(encoder.tokenizer.encode(prompt.text), starts, strict=True)
        if prompt.weights[start] != 1
    ]
    inside = text[text.index("(") + 1 : text.index(":")]
    assert heavy == encoder.tokenizer.encode(inside)


def test_a_string_is_taken_as_it_stands(encoder: TextEncoder) -> None:
    """Captions in training are no notation."""
    assert encoder.encode(["a (red) apple"]).hidden.ne(encoder.encode(["a red apple"]).hidden).any()
    assert encoder.chunks("(" * 40) > 1
