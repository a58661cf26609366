"""The options that the drawing commands share, each of them declared once."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littlecascade.cli import parser as values
from littlecascade.cli.plot import parse_axis

if TYPE_CHECKING:
    from littlecascade.cli.parser import Parser

DEFAULT_MODEL = "tiny"


@dataclass(frozen=True)
class Setting:
    """A keyword argument of the drawing verbs: how an option's text becomes its value, and what help says of it.

    plots: whether it can be an axis of a plot, where commas separate values.
    """

    parse: Callable[[str], Any]
    help: str
    metavar: str | None = None
    plots: bool = True


PICTURE = {
    "seed": Setting(values.seed, "seed of the first picture; the next ones count up from it"),
    "size": Setting(values.size, "width and height in pixels", "WxH"),
}
PRIOR = {
    "negative": Setting(str, "what to keep away from", "PROMPT"),
    "steps": Setting(values.count, "sampling steps of Stage C"),
    "sampler": Setting(str, "how Stage C walks from noise to picture: ddpm, ddim, dpmpp_2m, ..."),
    "guidance": Setting(values.number, "how strictly to follow the prompt; 1 is no guidance"),
    "rescale": Setting(values.number, "how far guided contrast is brought back to unguided, from 0 to 1"),
    "guidance_interval": Setting(values.interval, "when to guide: 0.2-0.8 leaves out the first and last fifth", "A-B"),
}
DECODER = {
    "decoder_steps": Setting(values.count, "sampling steps of Stage B"),
    "decoder_sampler": Setting(str, "the sampler of Stage B"),
    "decoder_guidance": Setting(values.number, "the guidance of Stage B; 1 is none, at half the time"),
}
WORDS = PICTURE | PRIOR | DECODER
"""What every verb that draws from words can be told."""

BACKGROUND = {
    "background": Setting(
        str, "what shows through transparent parts of pictures (default white)", "COLOUR", plots=False
    )
}


def add_words(parser: Parser, settings: Mapping[str, Setting]) -> None:
    """All options of a command that draws from words and takes `settings`."""
    add_settings(parser, settings)
    parser.add_argument(
        "--lora",
        dest="adapters",
        metavar="FILE[:SCALE[:FROM-TO]]",
        action="append",
        type=values.lora,
        help="a LoRA or a learned token, its scale (default 1) and the share of the steps in which it works (default "
        "0-1); again for further ones",
    )
    group = parser.add_argument_group("several pictures")
    group.add_argument("-n", dest="number", type=values.count, default=1, help="pictures of each prompt (default 1)")
    together = group.add_mutually_exclusive_group()
    together.add_argument("--sheet", action="store_true", help="all pictures side by side in one file")
    together.add_argument(
        "--grid",
        metavar="KEY=V1,V2",
        action="append",
        default=[],
        type=partial(parse_axis, parsers={name: setting.parse for name, setting in settings.items() if setting.plots}),
        help="a labelled plot, in one file, of prompts, seeds and the values of a setting, such as steps=5,10,20; "
        "given again it takes another setting, and every combination",
    )
    add_machine(parser)
    add_files(parser)


def add_settings(parser: Parser, settings: Mapping[str, Setting]) -> None:
    """Options for `settings`, of the same names; those that are not given are None."""
    group = parser.add_argument_group("how to draw (the model's own settings stand for what is not given)")
    for name, setting in settings.items():
        metavar = setting.metavar or name.rpartition("_")[2].upper()
        group.add_argument(_flag(name), type=setting.parse, metavar=metavar, help=setting.help)


def given(args: Namespace, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Those of `settings` that the command line gives."""
    return {name: getattr(args, name) for name in settings if getattr(args, name) is not None}


def add_machine(parser: Parser) -> None:
    """Options that say what draws, and where."""
    group = parser.add_argument_group("what draws")
    group.add_argument("--model", help=f"a size, a folder or files of weights (default {DEFAULT_MODEL})")
    group.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    group.add_argument("--precision", help="auto, float32, bfloat16, float16 or int8 (default auto)")
    group.add_argument(
        "--offload", default="auto", help="what is in memory: all (none), a stage, or a block at a time (default auto)"
    )
    group.add_argument("--verbose", action="store_true", help="tell how the memory is used, and what took how long")


def add_files(parser: Parser) -> None:
    """Options that say what a drawing is taken from and where it goes, and what is shown meanwhile."""
    group = parser.add_argument_group("files")
    group.add_argument(
        "--from",
        dest="source",
        metavar="PICTURE",
        type=Path,
        help="draw a picture again from its recipe; what is given beside it overrules the recipe",
    )
    group.add_argument("-o", "--output", metavar="FILE|FOLDER", help="a .png file, or a folder (default: this one)")
    group.add_argument("--overwrite", action="store_true", help="replace files that exist")
    group.add_argument("--save-latents", metavar="FILE", help="also write Stage C's latents, to a .safetensors file")
    group.add_argument("--no-preview", action="store_true", help="show no picture in the terminal while drawing")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
