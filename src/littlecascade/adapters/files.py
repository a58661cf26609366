"""Files of adapters: how one is used, what is in it, and how it is written in any format."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from littlecascade.adapters import naming, official
from littlecascade.adapters.injection import Deltas
from littlecascade.adapters.tokens import LearnedTokens, Row, TrainTokens
from littlecascade.checkpoint import files
from littlecascade.conditioning.tokenizer import ClipTokenizer
from littlecascade.errors import InputError, suggest

FORMATS = ("official", *naming.NAMED, "embedding")
"""All of them. An `embedding` is a file of one learned token, as ComfyUI and others read them."""

PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"

_NOTES = "littlecascade"
"""Metadata of an official file: JSON of what it does not say of itself."""

_BUNDLED = re.compile(r"bundle_emb\.(.+)\.clip_g")
_EMBEDDING = "clip_g"


@dataclass(frozen=True)
class Content:
    """What an adapter holds: changes by the role of their network (stage_c, stage_b, text), and learned tokens."""

    deltas: Mapping[str, Deltas]
    tokens: LearnedTokens | None = None


@dataclass(frozen=True)
class Adapter:
    """A file, and how it is used. Make one with `load`."""

    path: Path
    scale: float = 1.0
    steps: tuple[float, float] = (0.0, 1.0)
    tokens: tuple[tuple[str, str | None], ...] | None = None
    filters: tuple[str, ...] | None = None

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        scale: float = 1.0,
        steps: tuple[float, float] = (0.0, 1.0),
        tokens: TrainTokens | None = None,
        filters: Iterable[str] | None = None,
    ) -> Self:
        """A file of any format, or a folder of PEFT's, to draw with.

        scale: what its changes are multiplied by; learned tokens are not. steps: the share of the steps from which,
        and up to which, it works. What is computed once for all steps has it throughout: words, and what maps
        conditions. tokens, filters: the `train_tokens` and `module_filters` that an official file of others was trained
        with, if it has new tokens, or other modules than `.attn`.

        Raises `InputError` for a file that isn't there or is none, and for a scale or steps that can't be.
        """
        path = Path(path).expanduser()
        path = path / PEFT_WEIGHTS if path.is_dir() else path
        steps = (float(steps[0]), float(steps[1]))
        if not math.isfinite(scale):
            raise InputError(f"Scale {scale} of {path}: it must be a finite number.")
        if not 0 <= steps[0] < steps[1] <= 1:
            raise InputError(f"Steps {steps} of {path}: from a share of the steps to a larger one, such as 0 to 0.5.")
        pairs = None if tokens is None else tuple((first, like) for first, like in tokens)
        adapter = cls(path, float(scale), steps, pairs, None if filters is None else tuple(filters))
        _ = adapter.form
        return adapter

    @property
    def form(self) -> str:
        """One of `FORMATS`. Raises `InputError` for a file of none."""
        found = list(self._tensors())
        names = [name for name in found if not _BUNDLED.fullmatch(name)]
        if official.fits(names):
            return "official"
        if found == [_EMBEDDING]:
            return "embedding"
        form = naming.form_of(names)
        if form is None and (names or not found):
            raise InputError(
                f"{self.path} is no adapter: its tensors ({', '.join(found[:3]) or 'none'}, ...) are named as in none "
                f"of the formats {', '.join(FORMATS)}."
            )
        return form or "onetrainer"

    @property
    def token_width(self) -> int | None:
        """How many values its tokens have, None if it has no tokens."""
        found = (
            tensor.shape[-1]
            for name, tensor in self._tensors().items()
            if name in ("embeddings.embeddings", _EMBEDDING) or _BUNDLED.fullmatch(name)
        )
        return next(found, None)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of the file's SHA-256."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    @property
    def recipe(self) -> dict[str, Any]:
        """What it takes to use it again, as JSON can hold it."""
        facts: dict[str, Any] = {
            "path": str(self.path),
            "digest": self.digest,
            "scale": self.scale,
            "steps": list(self.steps),
        }
        if self.tokens is not None:
            facts["tokens"] = [list(pair) for pair in self.tokens]
        if self.filters is not None:
            facts["filters"] = list(self.filters)
        return facts

    @classmethod
    def from_recipe(cls, facts: Any) -> Self:
        """One that `recipe` describes. Raises `InputError` if it is broken, and for a file that has changed since."""
        try:
            path, digest, scale, steps = (facts[name] for name in ("path", "digest", "scale", "steps"))
            optional = {name: facts[name] for name in ("tokens", "filters") if name in facts}
            adapter = cls.load(path, scale=scale, steps=steps, **optional)
        except (KeyError, TypeError, ValueError, IndexError):
            raise InputError(f"The recipe's adapter {facts!r} lacks something, or is of the wrong kind.") from None
        if adapter.digest != digest:
            raise InputError(f"{path} is not the adapter of this recipe: it has changed since. Give the right one.")
        return adapter

    def read(self, networks: Mapping[str, nn.Module], tokenizer: Callable[[], ClipTokenizer]) -> Content:
        """What is in it, fitted to some of the networks: see `read_deltas` and `read_tokens`."""
        return Content(self.read_deltas(networks), self.read_tokens(tokenizer))

    def read_deltas(self, networks: Mapping[str, nn.Module]) -> dict[str, Deltas]:
        """The changes in it, by the role of the network that they fit.

        networks: by role, on any device, the meta device too. Raises `InputError` if it fits none of them, with what is
        in the way.
        """
        tensors = {name: tensor for name, tensor in self._tensors().items() if not _BUNDLED.fullmatch(name)}
        try:
            match self.form:
                case "official":
                    filters = self.filters if self.filters is not None else self._notes().get("module_filters")
                    return official.decode(tensors, networks, filters)
                case "embedding":
                    return {}
                case _:
                    return naming.decode(tensors, networks, self._alpha())
        except InputError as error:
            raise InputError(f"{self.path} does not fit: {error}") from None

    def read_tokens(self, tokenizer: Callable[[], ClipTokenizer]) -> LearnedTokens | None:
        """The learned tokens in it, None if there are none. tokenizer: is asked for if they need it.

        Raises `InputError` if their names are in no file and were not given.
        """
        tensors = self._tensors()
        if self.form == "embedding":
            return _unbundled({f"bundle_emb.[{self.path.stem}].clip_g": tensors[_EMBEDDING]})
        if self.form == "official":
            pairs = self.tokens if self.tokens is not None else self._notes().get("train_tokens")
            try:
                return official.decode_tokens(tensors, pairs, tokenizer)
            except InputError as error:
                raise InputError(f"{self.path}: {error}") from None
        return _unbundled({name: tensor for name, tensor in tensors.items() if _BUNDLED.fullmatch(name)})

    def _tensors(self) -> dict[str, Tensor]:
        return files.load(self.path)

    def _notes(self) -> dict[str, Any]:
        try:
            notes = json.loads(files.metadata(self.path).get(_NOTES, "{}"))
        except ValueError:
            notes = None
        if not isinstance(notes, dict):
            raise InputError(f"{self.path}: what it says of its modules and tokens can't be read.")
        return notes

    def _alpha(self) -> Callable[[str], float | None]:
        """The alpha of a name, which PEFT has in a file of its own."""
        path = self.path.parent / PEFT_CONFIG
        if self.form != "peft" or not path.is_file():
            return lambda name: None
        try:
            config = json.loads(path.read_text("utf-8"))
            patterns = dict(config.get("alpha_pattern") or {})
            own, ranks, rank = config["lora_alpha"], dict(config.get("rank_pattern") or {}), config["r"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no configuration of PEFT's LoRA: {error!r}.") from None

        def alpha(name: str) -> float:
            def find(values: dict[str, Any], default: Any) -> float:
                found = (value for key, value in values.items() if re.fullmatch(rf"(.*\.)?{key}", name))
                return float(next(found, default))

            root = math.sqrt(find(ranks, rank)) if config.get("use_rslora") else 1.0
            return find(patterns, own) * root

        return alpha


def save(
    path: str | os.PathLike[str],
    form: str,
    content: Content,
    networks: Mapping[str, nn.Module],
    tokenizer: ClipTokenizer | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write an adapter, and return its file. For `peft`, path may be a folder, which then has PEFT's configuration.

    networks: those that are changed, by role, on any device. tokenizer: needed for tokens in the official format.
    dtype: of all factors, None keeps them. Raises `InputError` for what the format has no place for.
    """
    if form not in FORMATS:
        raise InputError(f"Unknown format {form!r}; there are {', '.join(FORMATS)}.{suggest(form, FORMATS)}")
    path, notes, tokens = Path(path), {}, content.tokens
    if form == "official":
        tensors, notes["module_filters"] = official.encode(content.deltas, networks)
        if tokens is not None:
            if tokenizer is None:
                raise ValueError("tokens of the official format are numbered by a tokenizer: give it")
            own, notes["train_tokens"] = official.encode_tokens(tokens, tokenizer)
            tensors |= own
    elif form == "embedding":
        tensors = _embedding(content)
    else:
        tensors = naming.encode(form, content.deltas, networks) | _bundle(form, tokens)
    factors = {name: tensor.detach().to(_dtype(name, tensor, dtype)) for name, tensor in tensors.items()}
    if form == "peft" and path.suffix != ".safetensors":
        files.write_text(path / PEFT_CONFIG, json.dumps(_peft_config(factors), indent=2) + "\n")
        path = path / PEFT_WEIGHTS
    said = {_NOTES: json.dumps({name: note for name, note in notes.items() if note is not None})} if notes else {}
    files.save(path, factors, {"format": "pt", **said})
    return path


def _dtype(name: str, tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return tensor.dtype if dtype is None or name.endswith(".alpha") or not tensor.is_floating_point() else dtype


def _unbundled(bundled: Mapping[str, Tensor]) -> LearnedTokens | None:
    rows: list[Row] = []
    for name, vectors in bundled.items():
        match = _BUNDLED.fullmatch(name)
        if match is None or vectors.ndim != 2:
            raise InputError(f"{name} is no learned token: its vectors are (number, width).")
        rows += [Row(match[1])] * len(vectors)
    if not rows:
        return None
    start = torch.cat([vectors.float() for vectors in bundled.values()])
    return LearnedTokens(rows, torch.zeros_like(start), start)


def _bundle(form: str, tokens: LearnedTokens | None) -> dict[str, Tensor]:
    """New tokens as OneTrainer puts them beside a LoRA."""
    if tokens is None:
        return {}
    changed = [row.name for row in tokens.rows if row.id is not None]
    if form == "peft" or changed:
        what = f"changes of tokens of the vocabulary ({', '.join(changed[:3])}, ...)" if changed else "tokens"
        raise InputError(f"The format {form} has no place for {what}: leave the tokens out, or convert to official.")
    return {f"bundle_emb.{name}.clip_g": tokens.vectors(name) for name in tokens.new}


def _embedding(content: Content) -> dict[str, Tensor]:
    names = list(content.tokens.new) if content.tokens else []
    if content.tokens is None or len(names) != 1:
        raise InputError(f"A file of the format embedding holds one new token, and this adapter has {len(names)}.")
    return {_EMBEDDING: content.tokens.vectors(names[0])}


def _peft_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """PEFT's adapter_config.json; alpha is the rank everywhere."""
    start, ending = naming.NAMED["peft"].stage, ".lora_A.weight"
    ranks = {name[len(start) : -len(ending)]: len(tensors[name]) for name in tensors if name.endswith(ending)}
    counts: dict[int, int] = defaultdict(int)
    for rank in ranks.values():
        counts[rank] += 1
    most = max(counts, key=counts.__getitem__)
    others = {name: rank for name, rank in ranks.items() if rank != most}
    return {
        "peft_type": "LORA",
        "r": most,
        "lora_alpha": most,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "use_dora": any(name.endswith("lora_magnitude_vector") for name in tensors),
        "bias": "none",
    }
