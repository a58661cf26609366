"""Captions by a model that is on this machine, run by the library transformers. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from littlecascade.errors import InputError, suggest

TASKS = ("image-to-text", "image-text-to-text")
"""The pipelines of transformers that describe a picture: older versions have the first, newer ones the second."""
QUESTION = "Describe this picture in one sentence."
"""What models that follow instructions are asked."""
LONGEST = 64
"""Tokens that a caption may have."""


class Captioner:
    """Describes pictures with a model: `where` is its folder, or its name in the local cache of the Hugging Face hub.

    Raises `InputError` without transformers, without the model, and for a model that can't describe pictures.
    """

    def __init__(self, where: str) -> None:
        folder = _find(where)
        try:
            import transformers
            from transformers import pipelines
        except ImportError:
            raise InputError("Captions by a model need the library transformers: pip install transformers.") from None
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._where = where
        self._pipeline = _pipeline(pipelines, where, folder)
        processor = getattr(self._pipeline, "processor", None)
        self._instructed = getattr(processor, "chat_template", None) is not None

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """A caption for each picture. Raises `InputError` where the model fails."""
        options: dict[str, Any] = {"generate_kwargs": {"max_new_tokens": LONGEST}}
        if self._instructed:
            options |= {"text": [_chat(image) for image in images], "return_full_text": False}
        elif self._pipeline.task == TASKS[0]:
            options["images"] = list(images)
        else:
            options |= {"images": list(images), "text": [""] * len(images)}
        try:
            results = self._pipeline(**options)
        except Exception as error:  # of whatever kind the model's own code has
            raise _unusable(self._where, error) from None
        records = [result[0] if isinstance(result, list) else result for result in results]
        return [" ".join(record["generated_text"].split()) for record in records]


def _find(where: str) -> Path:
    """The folder of a model. Raises `InputError`."""
    from huggingface_hub import snapshot_download

    path = Path(where).expanduser()
    if path.is_dir():
        return path
    beside = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    try:
        return Path(snapshot_download(where, local_files_only=True))
    except Exception:  # a name that is none, or one that is not there
        raise InputError(
            f"There is no model {where!r} here: looked for a folder of that name, and in the cache of the Hugging "
            f"Face hub. Nothing is downloaded.{suggest(path.name, beside)}"
        ) from None


def _pipeline(pipelines: Any, where: str, folder: Path) -> Any:
    """The pipeline that can run a model: an instructed one is asked through the newer kind. Raises `InputError`."""
    import torch

    known = [task for task in TASKS if task in pipelines.get_supported_tasks()]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    instructed = any(folder.glob("chat_template*"))
    try:
        return pipelines.pipeline(
            known[-1] if instructed else known[0], model=str(folder), device=device, trust_remote_code=False
        )
    except Exception as error:  # transformers raises almost anything for what it can't load
        raise _unusable(where, error) from None


def _chat(image: Image.Image) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": content}]


def _unusable(where: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return InputError(f"The model {where!r} can't be used to describe pictures: {reason}")
