from __future__ import annotations

from pathlib import Path

import pytest

from littlecascade.conditioning.tokenizer import ClipTokenizer, train

TEXTS = [
    "a red apple on a table",
    "the blue pizza's crust, it's hot; we'll eat 1234 of them!",
    "a smiling kitty cat with heart eyes",
    "éclair, naïve, straße, İstanbul, Ωmega",
    "🙂 smile, 👨‍👩‍👧 family, 日本語, 한국어",
    "strawberries and cream, blueberries and milk",
    "purple umbrella under a yellow sun, green frog on a brown log",
]


@pytest.fixture(scope="session")
def tokenizer() -> ClipTokenizer:
    """A CLIP encoding of 660 tokens."""
    return train([text for text in TEXTS for _ in range(20)], 660)


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizer: ClipTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return folder
