"""Fetching the official weights, and the towers they were trained with, from the Hugging Face hub.

Files go to the Hugging Face cache, where other programs share them. What was cut off is taken up again, and every file
is held against the hash that the hub has of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from littlecascade.checkpoint import places
from littlecascade.errors import InputError, suggest


@dataclass(frozen=True)
class Licence:
    """What a repository's weights may be used for. ask: whether it has to be accepted before they are fetched."""

    name: str
    url: str
    note: str
    ask: bool


LICENCES = {
    places.CASCADE: Licence(
        "Stability AI Non-Commercial Research Community License",
        "https://huggingface.co/stabilityai/stable-cascade/blob/main/LICENSE",
        "for research and other non-commercial use only; finetunes are bound by it too",
        ask=True,
    ),
    places.TOWERS["text"]: Licence(
        "MIT", "https://huggingface.co/laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", "OpenCLIP's text tower", ask=False
    ),
    places.TOWERS["image"]: Licence(
        "MIT", "https://huggingface.co/openai/clip-vit-large-patch14", "OpenAI's image tower", ask=False
    ),
}

NETWORKS = ("stage_c", "stage_b", "stage_a", "compressor", "previewer")
CONTROLNETS = ("canny", "inpainting", "super_resolution")
PARTS = (*NETWORKS, *places.TOWERS)
"""What a download fetches unless it is told otherwise; the ControlNets come with `controlnet`."""

_SETTINGS = {
    "text": ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
    "image": ("config.json", "preprocessor_config.json"),
}
_WHOLE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Names of a tower's weights, the first that a repository has is taken; an index stands for its shards."""


@dataclass(frozen=True)
class Item:
    """One file of a repository. size in bytes, and sha256, as the hub states them; a small file has no hash there."""

    repository: str
    name: str
    size: int
    sha256: str | None


def plan(size: str, precision: str, parts: Iterable[str] = PARTS, *, token: str | None = None) -> list[Item]:
    """The files of some parts of a size. Asks the hub what it has.

    precision: bfloat16 or float32, of Stage B and C. Raises `InputError` for a part or size that is not published, and
    where the hub doesn't answer or doesn't let one in.
    """
    if size not in places.STAGES:
        known = ", ".join(places.STAGES)
        raise InputError(f"Size {size!r} is not published; there are {known}.{suggest(size, places.STAGES)}")
    wanted: dict[str, list[str]] = {}
    for part in parts:
        repository = places.TOWERS.get("text" if part == "tokenizer" else part, places.CASCADE)
        wanted.setdefault(repository, []).extend(_names(part, size, precision))
    items: list[Item] = []
    for repository, names in wanted.items():
        listed = _listing(repository, token)
        for name in names:
            items += _choose(repository, name, listed)
    return items


def fetch(items: Sequence[Item], *, token: str | None = None, report: Callable[[str], None] = print) -> list[Path]:
    """Download what is not in the cache yet, with a bar per file, and return where the files are.

    Raises `InputError` for a file that arrives with another size or hash than the hub states; it is removed.
    """
    paths: list[Path] = []
    for item in items:
        paths.append(_ask(item.repository, partial(_fetch, item, token)))
        report(f"{item.repository}/{item.name}  {item.size / 1e6:,.1f} MB")
    return paths


def _fetch(item: Item, token: str | None) -> Path:
    """One file. One whose hash is known grows beside the cache's own, so that a later run can go on with it."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    blob = places.cached(item.repository) / "blobs" / (item.sha256 or "")
    known = isinstance(try_to_load_from_cache(item.repository, item.name), str)
    if item.sha256 and not known and not blob.exists():
        _fetch_blob(item, blob, token)
    path = Path(hf_hub_download(item.repository, item.name, token=token))
    if item.sha256 and not known and not path.is_symlink():  # where there are no links the cache has copied it
        blob.unlink(missing_ok=True)
    return path


def _fetch_blob(item: Item, blob: Path, token: str | None) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_name(f"{blob.name}.part")
    with part.open("ab") as file:
        if (start := file.tell()) < item.size:
            url, headers = hf_hub_url(item.repository, item.name), build_hf_headers(token=token)
            http_get(
                url, file, resume_size=start, headers=headers, expected_size=item.size, displayed_filename=item.name
            )
    size = part.stat().st_size
    problem = f"{size:,} bytes in place of {item.size:,}" if size != item.size else ""
    if not problem and sha256(part) != item.sha256:
        problem = "another hash (sha256) than the hub states"
    if problem:
        part.unlink()
        raise InputError(f"{item.name} of {item.repository} arrived damaged, with {problem}; it is removed.")
    part.replace(blob)


def _names(part: str, size: str, precision: str) -> list[str]:
    """The files of a part; `*` stands for whichever of `_WHOLE` there is."""
    if part in NETWORKS:
        return [places.published(part, size, precision)]
    if part in places.TOWERS:
        return [*_SETTINGS[part], "*"]
    if part == "tokenizer":
        return list(_SETTINGS["text"])
    if part == "controlnet" and size == "full":
        return [f"controlnet/{name}.safetensors" for name in CONTROLNETS]
    known = (*PARTS, "tokenizer", "controlnet")
    raise InputError(f"{size} has no part {part!r}; there are {', '.join(known)}.{suggest(part, known)}")


def _choose(repository: str, name: str, listed: dict[str, Item]) -> list[Item]:
    if name in listed:
        return [listed[name]]
    if name in _SETTINGS["text"] or name in _SETTINGS["image"]:
        return []  # tokenizer.json and vocab.json with merges.txt stand for each other
    whole = next((whole for whole in _WHOLE if whole in listed), None) if name == "*" else None
    if whole is None:
        raise InputError(f"{repository} has no {name if name != '*' else _WHOLE[0]} any more.")
    if not whole.endswith("index.json"):
        return [listed[whole]]
    stem, kind = whole.removesuffix(".index.json").rsplit(".", 1)
    shards = [item for file, item in listed.items() if file.startswith(f"{stem}-") and file.endswith(kind)]
    return [listed[whole], *shards]


def _listing(repository: str, token: str | None) -> dict[str, Item]:
    from huggingface_hub import HfApi

    info = _ask(repository, lambda: HfApi().model_info(repository, files_metadata=True, token=token))
    return {
        file.rfilename: Item(repository, file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None)
        for file in info.siblings or ()
    }


def _ask(repository: str, question: Callable[[], Any]) -> Any:
    """What the hub answers, or `InputError` that says why it does not."""
    from huggingface_hub import errors

    try:
        return question()
    except InputError:
        raise
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise InputError(
            f"The hub does not let you have {repository}: accept its terms at https://huggingface.co/{repository}, and "
            "give a token of yours with --token or HF_TOKEN."
        ) from error
    except Exception as error:  # with that of the library that it sends requests with, which differs by version
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{repository} can't be had from the hub now ({reason}). What has come is kept: the same command goes on."
        ) from error


def sha256(path: Path) -> str:
    """The hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
