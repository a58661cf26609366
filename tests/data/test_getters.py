from __future__ import annotations

import random
from typing import Any

import pytest

from littlecascade.data.expressions import EvaluationError
from littlecascade.data.getters import CAPTION_FUNCTIONS, CaptionGetter, parse_captions_getter, parse_filters
from littlecascade.errors import InputError

WIDE = ["width", "lambda w: w >= 768"]


@pytest.mark.parametrize(
    ("value", "passing"),
    [
        (None, [(1, 1), (768, 1), (800, 900)]),
        ([], [(1, 1), (768, 1), (800, 900)]),
        (WIDE, [(768, 1), (800, 900)]),
        ([WIDE], [(768, 1), (800, 900)]),
        ([WIDE, ["height", "lambda h: h > 1"]], [(800, 900)]),
        ("width >= 768 and height > 1", [(800, 900)]),
        (["width >= 768", "height < 2"], [(768, 1)]),
        ([WIDE, "height < 2"], [(768, 1)]),
    ],
)
def test_all_filters_must_be_passed(value: object, passing: list[tuple[int, int]]) -> None:
    filters = parse_filters(value)
    sizes = [(1, 1), (768, 1), (800, 900)]
    passed = [(w, h) for w, h in sizes if all(one({"width": w, "height": h}) for one in filters)]
    assert passed == passing


def test_a_missing_field_is_an_error_of_the_sample() -> None:
    for value in (WIDE, "width >= 768"):
        (condition,) = parse_filters(value)
        with pytest.raises(EvaluationError, match="there is no field 'width'"):
            condition({"height": 5})


@pytest.mark.parametrize(
    "value", [7, {"width": 5}, [["width"]], [["width", "width >= 768"]], "lambda w: w > 5", [5], [["a", "b", "c"]]]
)
def test_what_is_no_filter_is_told(value: object) -> None:
    with pytest.raises(InputError, match=r"^dataset_filters: .* is no filter: write it as \['width'"):
        parse_filters(value)


def test_a_mistake_in_an_expression_names_the_key() -> None:
    with pytest.raises(InputError, match=r"^dataset_filters: 'exec' at character 11"):
        parse_filters(["width", "lambda w: exec(w)"])
    with pytest.raises(InputError, match=r"^captions_getter: 'eval' at character 1"):
        parse_captions_getter(["json", "eval(caption)"])


@pytest.mark.parametrize(
    ("value", "content", "caption"),
    [
        (["txt", "identity"], " two\nlines ", " two\nlines "),
        ([".TXT", "strip"], " two\nlines ", "two\nlines"),
        (["txt", "first_line"], "\n  first \nsecond", "first"),
        (["txt", "first_line"], " \n", ""),
        (["txt", "random_line"], " only \n\n", "only"),
        (["txt", "lambda t: t.lower() + '.'"], "A Cat", "a cat."),
        (["txt", "text.upper()"], "A Cat", "A CAT"),
        (["json", "caption"], {"caption": "a cat"}, "a cat"),
        (["json", "get('caption', '') or prompt"], {"prompt": "a dog"}, "a dog"),
        (["json", "lambda j: j['texts'][0]"], {"texts": ["one", "two"]}, "one"),
    ],
)
def test_captions_are_taken_as_told(value: object, content: Any, caption: str) -> None:
    getter = parse_captions_getter(value)
    assert getter.member == ("json" if isinstance(content, dict) else "txt")
    assert getter(content, random.Random(0)) == caption


def test_a_random_line_is_any_of_them_and_follows_from_the_draw() -> None:
    getter = CaptionGetter()
    lines = [getter("a\n\nb\nc\n", random.Random(seed)) for seed in range(50)]
    assert set(lines) == {"a", "b", "c"}
    assert lines == [getter("a\n\nb\nc\n", random.Random(seed)) for seed in range(50)]


@pytest.mark.parametrize("content", [{}, {"caption": 5}, {"caption": None}])
def test_a_sample_without_the_text_is_an_error_of_the_sample(content: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError):
        parse_captions_getter(["json", "caption"])(content, random.Random(0))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["txt", "identty"], r"no function 'identty'\. Did you mean 'identity'\? Those are"),
        (["json", "identity"], "'identity' is for text: for json name the field"),
        ("txt", "is no pair of a member and a function"),
        (["txt"], "is no pair of a member and a function"),
    ],
)
def test_what_is_no_getter_is_told(value: object, said: str) -> None:
    with pytest.raises(InputError, match=f"^captions_getter: .*{said}"):
        parse_captions_getter(value)


def test_every_function_copes_with_any_text() -> None:
    for text in ("", "\n", "a", "\r\n a\r\n", "\x85"):
        for function in CAPTION_FUNCTIONS.values():
            assert isinstance(function(text, random.Random(1)), str)
