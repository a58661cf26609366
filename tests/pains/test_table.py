"""docs/pains.md names the tests that there are, each in the row of its number."""

from __future__ import annotations

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parent
TEXT = (FOLDER.parents[1] / "docs" / "pains.md").read_text("utf-8")
TESTS = {
    node.name
    for path in FOLDER.glob("test_*.py")
    for node in ast.parse(path.read_text("utf-8")).body
    if isinstance(node, ast.FunctionDef) and re.match(r"test_(pain|fork)_\d", node.name)
}


def rows(text: str) -> list[tuple[int, set[str]]]:
    """The number and the tests of each row."""
    found = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", text, re.MULTILINE)
    return [(int(number), set(re.findall(r"`(test_\w+)`", tests))) for number, tests in found]


def test_every_row_names_its_tests_and_every_test_has_its_row() -> None:
    pains, fork = map(rows, TEXT.split("## The single-GPU fork's eight"))
    named = {test for _, tests in pains + fork for test in tests}
    assert named == TESTS
    assert [number for number, _ in fork] == list(range(1, 9))
    for kind, table in (("pain", pains), ("fork", fork)):
        for number, tests in table:
            assert tests, number
            for test in tests:
                found = re.match(rf"test_{kind}_0*(\d+)_", test)
                assert (kind, number) == ("pain", 11) or (found is not None and int(found[1]) == number), test


def test_every_number_has_a_row_or_is_told_to_be_missing() -> None:
    (missing,) = re.findall(r"^Not there yet.*?\n\n", TEXT, re.MULTILINE | re.DOTALL)
    later = {int(number) for number in re.findall(r"\b(\d+)\s\(", missing)}
    there = {number for number, _ in rows(TEXT.split("## ")[0])}
    assert there | later == set(range(1, 24))
    assert not there & later
