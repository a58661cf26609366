from __future__ import annotations

import pytest

from littlecascade.errors import InputError
from littlecascade.memory.cards import CARDS, CONTEXT, GIB, find_card


@pytest.mark.parametrize(
    ("text", "name", "memory", "bfloat16"),
    [
        ("RTX 2080 Ti", "RTX 2080 Ti", 11, False),
        ("NVIDIA GeForce RTX 2080 Ti", "RTX 2080 Ti", 11, False),
        ("rtx3060", "RTX 3060", 12, True),
        ("GeForce GTX 1060 3GB", "GTX 1060 3GB", 3, False),
        ("Tesla V100", "Tesla V100", 16, False),
        ("rtx 4060 ti 16gb", "RTX 4060 Ti 16GB", 16, True),
        ("11GB,turing", "11 GB, turing", 11, False),
        ("7.5 gib, Ada", "7.5 GB, ada", 7.5, True),
        ("8GB", "8 GB, ampere", 8, True),
    ],
)
def test_cards_are_found_however_they_are_written(text: str, name: str, memory: float, bfloat16: bool) -> None:
    card = find_card(text)
    assert (card.name, card.memory, card.bfloat16) == (name, memory * GIB, bfloat16)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("RTX 2080 Tie", "Did you mean 'RTX 2080 Ti'"),
        ("11GB,turning", "Did you mean 'turing'"),
        ("Voodoo 2", "memory and architecture such as '11GB,turing'"),
    ],
)
def test_what_is_no_card_is_told_with_what_comes_nearest(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        find_card(text)


def test_the_table_is_whole() -> None:
    assert len(CARDS) > 60
    for card in CARDS.values():
        assert card.architecture in CONTEXT
        assert 3 * GIB <= card.memory <= 200 * GIB
        # in 16 bits no card is slower than in float32, and none computes more than 150 times a byte it moves
        assert 1e12 < card.single <= card.half < 1000 * card.bandwidth
        assert find_card(card.name) is card
