"""The eight problems that the author of the single-GPU fork lists, by his numbers: here they do not come up."""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from littlecascade.checkpoint import files
from littlecascade.data.places import resolve
from littlecascade.errors import InputError
from littlecascade.memory.precision import choose_dtype
from littlecascade.models.stage_c import StageC
from littlecascade.training.batch import fitted, micro_batch

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FORK = ROOT / "configs" / "training" / "finetune_c_1b_lora_dry_run.yaml"
POSIX = {"fcntl", "grp", "posix", "pwd", "resource", "termios", "tty"}
"""Modules that Windows has not."""

Call = Callable[..., Any]
Configure = Callable[..., str]


def imports(statements: Iterable[ast.AST]) -> Iterator[str]:
    """The top-level names of the modules that are imported by their full names."""
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).partition(".")[0]


def test_fork_1_nothing_is_imported_that_an_installation_does_not_bring(here: Path) -> None:
    """`gdf` lay beside the script that imported it, and nowhere else. What is imported when used may be an extra."""
    requirements = map(Requirement, importlib.metadata.requires("littlecascade") or ())
    brought = {canonicalize_name(one.name) for one in requirements if "extra" not in str(one.marker)}
    owners = importlib.metadata.packages_distributions()
    names = {name for name, those in owners.items() if brought & set(map(canonicalize_name, those))}
    found = {name for path in SOURCES for name in imports(ast.parse(path.read_text("utf-8")).body)}
    assert "torch" in found
    assert found - names - sys.stdlib_module_names - {"littlecascade"} == set()
    command = [sys.executable, "-m", "littlecascade", "train", "--help"]
    assert subprocess.run(command, cwd=here, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("variables", [{}, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}])
def test_fork_2_training_starts_outside_of_slurm_and_in_a_job(
    variables: dict[str, str], call: Call, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = call("train", "lora", configure(updates=1))
    assert done.code == 0
    assert Path(done.out.strip(), "mine.safetensors").is_file()


def test_fork_3_windows_has_all_that_is_used() -> None:
    """No module of POSIX alone, and no text in whatever encoding Windows has set: it is not UTF-8."""
    for path in SOURCES:
        tree = ast.parse(path.read_text("utf-8"))
        assert not POSIX & set(imports(tree.body)), path
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            said = {keyword.arg for keyword in call.keywords} | {getattr(one, "value", None) for one in call.args}
            name = ast.unparse(call.func)
            if name.endswith((".read_text", ".write_text")) and name != "files.write_text":  # which writes UTF-8
                assert said & {"encoding", "utf-8", "ascii"}, f"{path}:{call.lineno}"
    with pytest.raises(InputError, match="C:") as caught:
        resolve(r"C:\data\there-is-none.tar")
    assert "scheme" not in str(caught.value)


def test_fork_4_bfloat16_is_not_taken_for_granted(
    call: Call, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert choose_dtype("auto", "cuda") != torch.bfloat16
    done = call("train", "lora", configure(precision=None, dtype="float16"))
    assert done.code == 0
    assert "loss_scale" in Path("runs/mine/metrics.jsonl").read_text("utf-8")


def test_fork_5_the_path_of_the_data_is_found_or_its_nearest_is_named(here: Path, call: Call) -> None:
    """The fork's configuration as it stands, with a tar as its tool makes it."""
    missing = call("doctor", str(FORK))
    assert missing.code == 1
    assert "fix   webdataset_path" in missing.out
    (here / "dataset").mkdir()
    for name, text in (("001.txt", "Futurism, city"), ("002.txt", "city")):
        (here / "dataset" / name).write_text(text, "utf-8")
    for name in ("001.jpg", "002.jpg"):
        Image.new("RGB", (64, 64), "navy").save(here / "dataset" / name)
    with tarfile.open(here / "outptu.tar", "w") as archive:
        archive.add(here / "dataset", arcname="output")
    (here / "outptu.tar").rename(here / "dataset" / "outptu.tar")
    assert "Did you mean 'outptu.tar'?" in call("doctor", str(FORK)).out
    (here / "dataset" / "outptu.tar").rename(here / "dataset" / "output.tar")
    found = call("doctor", str(FORK)).out
    assert "fix   webdataset_path" not in found
    assert "the first 2 samples open and have captions" in found


def test_fork_6_a_configuration_is_named_from_anywhere(
    here: Path, call: Call, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = here / configure(updates=1)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert call("train", "lora", str(config)).code == 0
    refused = call("train", "lora", "../runs.yaml")
    assert refused.code == 2
    assert str(Path("../runs.yaml")) in refused.err


def test_fork_7_memory_that_runs_out_ends_in_advice(
    call: Call, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(StageC, "forward", forward)
    done = call("train", "lora", configure())
    assert done.code == 2
    assert "goes on as 2 micro-batches of 1" in done.err
    assert "gradient_checkpointing is switched on" in done.err
    assert "a smaller image_size" in done.err
    assert "Traceback" not in done.err


def test_fork_8_batch_size_is_never_0(call: Call, configure: Configure) -> None:
    """The official micro-batch is batch_size // (processes x grad_accum_steps)."""
    for size, steps, processes in itertools.product(range(1, 13), range(1, 9), (1, 2, 8)):
        fitting = fitted(size, steps, processes)
        assert micro_batch(*fitting, processes) >= 1
        if size % (steps * processes):
            with pytest.raises(InputError, match="does not divide"):
                micro_batch(size, steps, processes)
    refused = call("train", "lora", configure(batch_size=2, grad_accum_steps=4))
    assert refused.code == 2
    assert "the nearest that do: 4" in refused.err
    assert not Path("runs").exists()
    done = call("train", "lora", configure(batch_size=2, grad_accum_steps=4, updates=1), "--fit")
    assert done.code == 0
    assert "fitted: grad_accum_steps=2" in done.err
    assert files.metadata("runs/mine/state.safetensors")["step"] == "1"
