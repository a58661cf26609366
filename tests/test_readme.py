"""The README: its marked code blocks run, its links lead somewhere, its repository is the project's.

`<!-- test -->` on the line before a fenced block of bash or python marks it. It runs in an empty folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MARKED = re.findall(r"^<!-- test -->\n```(bash|python)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
INTERPRETERS = {"python": [sys.executable, "-c"], "bash": ["bash", "-euo", "pipefail", "-c"]}


@pytest.mark.parametrize(("language", "code"), MARKED, ids=[code.splitlines()[0] for _, code in MARKED])
def test_marked_blocks_run(language: str, code: str, tmp_path: Path) -> None:
    if language == "bash" and (sys.platform == "win32" or shutil.which("bash") is None):
        pytest.skip("there is no bash here")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if "littlecascade" in code and shutil.which("littlecascade", path=path) is None:
        pytest.skip("the package is not installed beside this Python")
    done = subprocess.run(
        [*INTERPRETERS[language], code],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_mark_stands_before_a_block() -> None:
    assert len(MARKED) == README.count("<!-- test -->") > 0


def test_links_lead_to_files() -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_repository_is_the_one_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(re.findall(r"git clone (\S+?)[;\s]", README)) == {project["urls"]["Repository"]}
