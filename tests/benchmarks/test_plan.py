"""Plans, held against runs of processes of their own, and the table that is made of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def plan() -> ModuleType:
    """`benchmarks/plan.py`."""
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("benchmarks_plan", FOLDER / "plan.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


@pytest.mark.slow
def test_a_plan_is_within_a_tenth_of_what_a_run_takes(plan: ModuleType, tmp_path: Path) -> None:
    kind, path = plan.make("lora-float32", tmp_path)
    _, planned = plan.expected(kind, path)
    assert planned == pytest.approx(plan.measured(kind, path), rel=0.1)


@pytest.mark.slow
def test_the_table_in_the_documents_is_what_is_generated(plan: ModuleType) -> None:
    assert plan.row_of("lora-tiny") in plan.DOCS.read_text("utf-8").splitlines()
