"""The order of the layers, and which libraries wait until they are used: read off the import statements."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "littlecascade"

LAYERS = [
    {"errors", "folders", "recipe", "checks", "__version__"},
    {"nn", "diffusion"},
    {"models"},
    {"checkpoint", "conditioning", "adapters", "memory"},
    {"presets"},
    {"pipelines", "data"},
    {"training"},
    {"doctor"},
    {"cli", "ui"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

LATE = {
    *("accelerate", "av", "boto3", "cv2", "diffusers", "gradio", "huggingface_hub", "insightface", "matplotlib"),
    *(
        "onnxruntime",
        "pandas",
        "prodigyopt",
        "pyarrow",
        "scipy",
        "sentencepiece",
        "skimage",
        "tensorboard",
        "tokenizers",
        "torchvision",
        "transformers",
    ),
    *("wandb", "webdataset"),
}

MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
FACADES = {"__init__.py", "__main__.py"}  # they name the top layer by design


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all that is imported anywhere in `tree`; for `from a import b`, `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements that run when the module is imported: not those inside functions or `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from run_at_import(node)


def parse(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"))


def layer_of(module: str) -> str:
    return module.removesuffix(".py").split("/")[0]


def own_imports(module: str) -> set[str]:
    """The parts of the package that a module imports; the public `Cascade` lives in `pipelines`."""
    names = (name.split(".") for name in imports(parse(module)))
    parts = {name[1] for name in names if name[0] == "littlecascade" and len(name) > 1}
    return {"pipelines" if part == "Cascade" else part for part in parts}


@pytest.mark.parametrize("module", [module for module in MODULES if module not in FACADES])
def test_imports_run_downwards_only(module: str) -> None:
    layer = layer_of(module)
    assert layer in RANK, f"{layer} has no place in LAYERS"
    upwards = {part for part in own_imports(module) if RANK[part] > RANK[layer]}
    assert not upwards, f"{module} imports {upwards}, which stand above {layer}"


def test_neighbours_do_not_import_each_other() -> None:
    edges = {(layer_of(module), part) for module in MODULES if module not in FACADES for part in own_imports(module)}
    mutual = [(a, b) for names in LAYERS for a, b in combinations(sorted(names), 2) if {(a, b), (b, a)} <= edges]
    assert not mutual


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_wait_until_they_are_used(module: str) -> None:
    statements = run_at_import(parse(module))
    early = {
        name.split(".")[0]
        for statement in statements
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for name in imports(statement)
    }
    assert not early & LATE


def test_every_folder_is_a_package() -> None:
    folders = {(PACKAGE / module).parent for module in MODULES}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []
