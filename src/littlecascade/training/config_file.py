"""Reading a run configuration: a flat YAML file, or values, as one of the typed models.

A key that is unknown, of the wrong type or out of range is one `InputError` that names the file, the line and the
nearest known key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ValidationError

from littlecascade.errors import InputError, suggest
from littlecascade.training import paths
from littlecascade.training.config import RunConfig

Config = TypeVar("Config", bound=RunConfig)

_ELSEWHERE = {
    "caption_dropout": "text_dropout",
    "gradient_accumulation_steps": "grad_accum_steps",
    "learning_rate": "lr",
    "lora_rank": "rank",
    "lr_warmup_steps": "warmup_updates",
    "max_train_steps": "updates",
    "network_alpha": "lora_alpha",
    "network_dim": "rank",
    "resolution": "image_size",
    "train_batch_size": "batch_size",
}
"""What other programs for training call some of the keys."""


def load_config(cls: type[Config], path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file as `cls`; `overrides` are `key=value` with the value in YAML.

    Paths in the file are looked for as `littlecascade.training.paths` says. Raises `InputError` for a file that can't
    be read, for anything `parse_config` refuses, and for contradictions.
    """
    values, lines = read_values(path, overrides)
    config = parse_config(cls, values, source=str(path), lines=lines)
    config = config.model_copy(update=paths.resolve(dict(config), path.resolve().parent))
    config.check()
    return config


def read_values(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, int]]:
    """The keys and values of a YAML file, and the lines on which the keys stand. Raises `InputError`."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Can't read the configuration {path}: {error}.") from None
    content = _read_yaml(text, str(path))
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; a run configuration is `key: value` lines.")
    values, lines = cast(dict[str, Any], content), _lines(text)
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise InputError(f"--set {override!r}: expected key=value.")
        values[key.strip()] = _read_yaml(value, f"--set {override!r}")
        lines.pop(key.strip(), None)
    return values, lines


def parse_config(
    cls: type[Config],
    values: Mapping[str, Any],
    *,
    source: str = "configuration",
    lines: Mapping[str, int] | None = None,
) -> Config:
    """Check `values` against `cls`; one `InputError` lists every problem, with its line where `lines` knows it."""
    lines = dict(lines or {})
    known = _own_names(cls, values, lines)
    try:
        return cls.model_validate(cls.defaults(known) | known)
    except ValidationError as error:
        problems = [_explain(cls, problem, lines) for problem in error.errors()]
        raise InputError("\n".join([f"{source} can't be used:", *(f"  {problem}" for problem in problems)])) from None


def _own_names(cls: type[RunConfig], values: Mapping[str, Any], lines: dict[str, int]) -> dict[str, Any]:
    """`values` with our names for the official ones; `lines` gets our names, too."""
    renamed = dict(values)
    for official, own in cls.synonyms.items():
        if official not in renamed or own not in cls.model_fields:
            continue
        if own in renamed:
            raise InputError(f"{official} and {own} are two names of one key: leave one of them out.")
        renamed[own] = renamed.pop(official)
        if official in lines:
            lines[own] = lines[official]
    return renamed


def _read_yaml(text: str, source: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{source} is not valid YAML: {error}") from None


def _explain(cls: type[RunConfig], problem: Any, lines: Mapping[str, int]) -> str:
    key = str(problem["loc"][0]) if problem["loc"] else ""
    where = f"line {lines[key]}: " if key in lines else ""
    if problem["type"] == "extra_forbidden":
        known = [*cls.model_fields, *(name for name, own in cls.synonyms.items() if own in cls.model_fields)]
        other = f" Here it is called {_ELSEWHERE[key]!r}." if _ELSEWHERE.get(key) in known else suggest(key, known)
        return f"{where}unknown key {key!r}.{other}"
    if problem["type"] == "missing" and len(problem["loc"]) == 1:
        return f"{key!r} is missing."
    return f"{where}{key}: {problem['msg']} (got {problem['input']!r})."


def _lines(text: str) -> dict[str, int]:
    """The line, from 1, on which each key of a mapping stands."""
    node = cast(object, yaml.compose(text))  # pyright: ignore[reportUnknownMemberType]
    if not isinstance(node, yaml.MappingNode):
        return {}
    pairs = cast(list[tuple[yaml.Node, yaml.Node]], node.value)
    return {str(key.value): key.start_mark.line + 1 for key, _ in pairs}
