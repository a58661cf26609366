"""What the commands that draw have in common: from what a command line asks for to finished files."""

from __future__ import annotations

import secrets
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littlecascade.cli.drawing_options import DEFAULT_MODEL, Setting, given
from littlecascade.cli.files import plan_latents, plan_outputs, stem_of
from littlecascade.cli.plot import Call, Plot
from littlecascade.cli.saving import Files, OneFile, Saver
from littlecascade.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from littlecascade import Cascade
    from littlecascade.pipelines.results import Result
    from littlecascade.pipelines.session import OnPicture
    from littlecascade.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """A verb of `Cascade`, what it draws from, its other arguments, and the recipe that they come from, if any."""

    verb: str
    pictures: Sequence[str]
    prompts: Sequence[str]
    arguments: Mapping[str, Any]
    recipe: Recipe

    @classmethod
    def of(
        cls,
        args: Namespace,
        verb: str,
        settings: Mapping[str, Setting],
        *,
        pictures: Sequence[str] = (),
        prompts: Sequence[str] = (),
    ) -> Job:
        """What the command line gives and, for the rest, what the recipe of `--from` says.

        `generate` draws again what any verb drew from words; the others want pictures of their own.
        Raises `InputError` for a picture without a recipe, and one that this verb did not draw.
        """
        chosen = given(args, settings) | _adapters(args)
        if args.source is None:
            return cls(verb, pictures, prompts, chosen, {})
        from littlecascade.pipelines.redraw import arguments_of, pictures_of
        from littlecascade.recipe import read_recipe

        recipe = read_recipe(args.source)
        task, stored = arguments_of(recipe)
        if task != verb and (verb != "generate" or task == "reconstruct"):
            raise InputError(f"'{args.source}' was drawn by another command: littlecascade {task} --from {args.source}")
        if task != "generate" and not pictures:
            try:
                pictures = pictures_of(recipe)
            except InputError as error:
                raise InputError(f"{error} littlecascade {task} IMAGE --from {args.source}") from None
        prompt = stored.pop("prompt", None)
        return cls(task, pictures, prompts or ([] if prompt is None else [prompt]), stored | chosen, recipe)

    @property
    def stems(self) -> list[str]:
        """Names for the files of the pictures, one for each prompt."""
        if self.verb == "generate":
            return [stem_of(prompt) for prompt in self.prompts]
        ending = {"vary": "variation", "edit": "edit"}[self.verb]
        return [f"{Path(self.pictures[0]).stem}-{ending}"] * len(self.prompts)

    def run(self, cascade: Cascade, **changes: Any) -> Result:
        """Draw it, with some arguments changed."""
        pictures = {"generate": [], "vary": [self.pictures]}.get(self.verb, self.pictures[:1])
        return getattr(cascade, self.verb)(*pictures, **{**self.arguments, **changes})


def draw(args: Namespace, job: Job) -> int:
    """Draw a job, write what it gives, and print the paths."""
    plot = _plot(args, job) if args.grid else None
    names = [stem for stem in job.stems for _ in range(args.number)]
    total = len(plot) if plot else len(names)
    if plot or args.sheet:
        names = [f"{names[0]}-{'plot' if plot else 'sheet'}"]
    paths = plan_outputs(args.output, names, overwrite=args.overwrite)
    latents = plan_latents(args.save_latents, 1, overwrite=args.overwrite)

    from littlecascade.cli.progress import Progress

    calls = list(plot.calls()) if plot else [Call({"prompt": job.prompts, "n": args.number}, range(total))]
    cascade = open_cascade(args, job.recipe)
    if plot:
        _check(cascade, [{**job.arguments, **call.arguments} for call in calls])
    with Progress(sys.stderr, pictures=not args.no_preview) as progress:
        saver: Saver = Files(paths, progress)
        if plot or args.sheet:
            saver = OneFile(paths[0], total, progress, plot.draw if plot else _sheet)
        with saver:
            results = [
                job.run(cascade, **call.arguments, callback=progress, on_picture=_placed(saver, call.places))
                for call in calls
            ]
    for path in latents:
        results[0].save_latents(path)
        print(path)
    if args.verbose:
        report(results, cascade)
    return 0


def open_cascade(args: Namespace, recipe: Recipe) -> Cascade:
    """The cascade that the command line asks for, or else the recipe."""
    from littlecascade import Cascade

    name = args.model or str(recipe.get("model", DEFAULT_MODEL))
    precision = args.precision or str(recipe.get("precision", "auto"))
    cascade = Cascade.load(name, device=args.device, precision=precision, offload=args.offload)
    if args.verbose:
        print(f"littlecascade: {cascade.components.placement}", file=sys.stderr)
    digest = cascade.components.model.digest
    if not args.model and recipe.get("model_digest", digest) != digest:
        print(f"littlecascade: {args.source} was drawn with other weights of {name!r}", file=sys.stderr)
    return cascade


def report(results: Sequence[Result], cascade: Cascade) -> None:
    """Tell what took how long, and how much memory."""
    for remark in cascade.components.remarks.values():
        print(f"littlecascade: {remark}", file=sys.stderr)
    seconds: dict[str, float] = {}
    for result in results:
        for part, spent in result.timings.items():
            seconds[part] = seconds.get(part, 0.0) + spent
    spent = ", ".join(f"{part} {value:.1f} s" for part, value in seconds.items())
    peak = max(result.peak_memory for result in results) / 2**30
    print(f"littlecascade: {spent}; {peak:.2f} GiB of memory at the most", file=sys.stderr)


def _adapters(args: Namespace) -> dict[str, Any]:
    """What the options `--lora` ask for, if there are any."""
    if args.adapters is None:
        return {}
    from littlecascade import Adapter

    return {"adapters": [Adapter.load(path, scale=scale, steps=steps) for path, scale, steps in args.adapters]}


def _plot(args: Namespace, job: Job) -> Plot:
    """The plot that `--grid` asks for. Raises `InputError` where something is asked for twice."""
    names = [axis.name for axis in args.grid]
    for name in names:
        if names.count(name) > 1 or getattr(args, name) is not None:
            raise InputError(f"{name.replace('_', '-')} is given twice: once, in --grid, is enough.")
    if "seed" in names and args.number > 1:
        raise InputError("-n counts seeds up, and --grid names them: give one of the two.")
    if args.save_latents is not None:
        raise InputError("--save-latents goes with pictures of the same settings, not with --grid.")
    seed = job.arguments.get("seed")
    first = secrets.randbelow(2**32) if seed is None else seed
    return Plot.of(job.prompts, range(first, first + args.number), args.grid)


def _check(cascade: Cascade, calls: Sequence[Mapping[str, Any]]) -> None:
    """Raise `InputError` for a setting that can't be, before the first picture of a plot is drawn."""
    from littlecascade.conditioning.prompts import Prompt
    from littlecascade.pipelines.sampling import Plan
    from littlecascade.pipelines.size import check_size

    names = {field.name for field in fields(Plan)}
    for arguments in calls:
        Plan.of(cascade.drawing, {name: value for name, value in arguments.items() if name in names})
        for text in (arguments["prompt"], arguments.get("negative", "")):
            Prompt.parse(text)
        if "size" in arguments:
            check_size(arguments["size"], cascade.drawing.image_size, cascade.components.model.name)


def _placed(saver: Saver, places: Sequence[int]) -> OnPicture:
    """Hands pictures on to the places that they have among all."""
    return lambda number, image, recipe: saver.add(places[number], image, recipe)


def _sheet(images: Mapping[int, Image.Image]) -> Image.Image:
    from littlecascade.pipelines.results import sheet

    return sheet([images[place] for place in sorted(images)], gap=4)
