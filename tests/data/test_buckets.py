from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlecascade.data.buckets import OFFICIAL, Buckets, parse_ratios
from littlecascade.errors import InputError


def test_the_official_sizes_at_768() -> None:
    """By hand: sqrt(768 * 768 * 2/3) = 627.07, rounded down 608; over 2/3: 940.6, 928."""
    assert Buckets(768, parse_ratios(["2/3"])).sizes == ((608, 928), (928, 608))
    assert Buckets(1024, parse_ratios(["1/1"])).sizes == ((1024, 1024),)
    assert len(Buckets(1024, parse_ratios(OFFICIAL)).sizes) == 23


@given(width=st.integers(64, 5000), height=st.integers(64, 5000))
def test_a_picture_goes_to_the_nearest_ratio(width: int, height: int) -> None:
    buckets = Buckets(512, parse_ratios(OFFICIAL))
    chosen = buckets.nearest(width, height)
    distances = [abs(ratio - width / height) for ratio in buckets.ratios]
    near = [size for size, distance in zip(buckets.sizes, distances, strict=True) if distance == min(distances)]
    assert chosen in near  # at this size 4/5 and 5/6 come to the same
    assert all(side % 32 == 0 for side in chosen)
    assert 0.75 < chosen[0] * chosen[1] / 512**2 <= 1


@pytest.mark.parametrize("text", ["", "a", "1/0", "0", "-1/2", "1/2/3", "16x9"])
def test_what_is_no_ratio_is_told(text: str) -> None:
    with pytest.raises(InputError, match="is no ratio of width to height"):
        parse_ratios([text])


def test_a_ratio_that_leaves_nothing_is_told() -> None:
    with pytest.raises(InputError, match="leaves no side of 32 or more"):
        _ = Buckets(64, parse_ratios(["1/9"])).sizes
