"""What a recipe says, as the arguments of the verb that wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from littlecascade.adapters.files import Adapter
from littlecascade.errors import InputError, suggest
from littlecascade.pipelines.pictures import open_sources
from littlecascade.recipe import Recipe

_DECODER = ("size", "seed", "decoder_steps", "decoder_sampler", "decoder_guidance")
_WORDS = ("prompt", "negative", "adapters", "steps", "sampler", "guidance", "rescale", "guidance_interval")
_ARGUMENTS = {
    "generate": (*_WORDS, *_DECODER),
    "vary": (*_WORDS, *_DECODER, "weights", "background"),
    "edit": (*_WORDS, *_DECODER, "strength", "background"),
    "reconstruct": (*_DECODER, "background"),
}
"""Keys of a recipe that are keyword arguments of the same names, by task."""

_NUMBER = (int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("prompt", "negative", "sampler", "decoder_sampler", "background"), (str,)),
    **dict.fromkeys(("seed", "steps", "decoder_steps"), (int,)),
    **dict.fromkeys(("guidance", "rescale", "decoder_guidance", "strength"), _NUMBER),
    **dict.fromkeys(("size", "guidance_interval", "weights", "adapters"), (list, tuple)),
}


def arguments_of(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """The task, and the keyword arguments that the recipe holds for its verb.

    What is missing is left to the model's own settings, and unknown keys are passed over. Raises `InputError` for a
    task that can't be drawn again and for values of the wrong kind.
    """
    task = recipe.get("task", "generate")  # the first recipes did not say
    if str(task) not in _ARGUMENTS:
        raise InputError(
            f"This recipe's task is {task!r}; those that can be drawn again are {', '.join(_ARGUMENTS)}."
            f"{suggest(str(task), _ARGUMENTS)}"
        )
    arguments = {name: _value(name, recipe[name]) for name in _ARGUMENTS[task] if name in recipe}
    if task == "generate" and "prompt" not in arguments:
        raise InputError("This recipe has no prompt.")
    return task, arguments


def pictures_of(recipe: Recipe) -> list[str]:
    """The pictures that a recipe started from, where it found them.

    Raises `InputError` if one isn't there any more or is another now.
    """
    sources = recipe.get("sources")
    if not isinstance(sources, list) or not sources or not all(isinstance(source, dict) for source in sources):
        raise InputError("This recipe does not say which picture it started from: give the picture with it.")
    background = _value("background", recipe.get("background", "white"))
    return [_find(source.get("path"), source.get("digest"), background) for source in sources]


def _find(path: Any, digest: Any, background: str) -> str:
    if not isinstance(path, str):
        raise InputError("This recipe started from a picture that was in no file: give the picture with it.")
    if not Path(path).exists():
        raise InputError(f"There is no picture {path!r}, which this recipe started from: give the picture with it.")
    if open_sources(path, background)[0].digest != digest:
        raise InputError(
            f"{path!r} is not the picture that this recipe started from: it has changed since. "
            "Give the right one with it."
        )
    return path


def _value(name: str, value: Any) -> Any:
    if name == "adapters" and isinstance(value, list):
        return [Adapter.from_recipe(facts) for facts in value]
    right = isinstance(value, _TYPES[name]) and not isinstance(value, bool)
    if right and isinstance(value, list | tuple):  # JSON has lists only
        kinds, value = (int,) if name == "size" else _NUMBER, tuple(value)
        right = all(isinstance(item, kinds) for item in value) and (name == "weights" or len(value) == 2)
    if not right:
        raise InputError(f"This recipe's {name!r} is {value!r}, which is of the wrong kind.")
    return value
