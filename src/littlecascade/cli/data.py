"""`littlecascade data`: making a data set out of pictures, checking one, showing it, and caching it for training."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littlecascade.cli import data_cache, data_check
from littlecascade.cli import parser as values
from littlecascade.errors import InputError

if TYPE_CHECKING:
    from littlecascade.cli.parser import Parser
    from littlecascade.data.build import Settings
    from littlecascade.data.outcome import Report

_CROPS = ("none", "center", "square", "smart")
_NAMED = 3  # sources of each problem that the terminal shows
_REASONS = {
    "damaged": "damaged",
    "small": "smaller than --min-side",
    "blurred": "blurred",
    "duplicate": "looking like another",
}
_NOTES = {
    "blurred": "blurred; --blurred drop leaves them out",
    "enlarged": "enlarged, since they had fewer pixels; --min-side leaves them out",
    "uncaptioned": "without a caption",
    "unreadable": "with a .txt or .json file that can't be read",
}


def add_parser(subparsers: Any, **keywords: Any) -> Parser:
    """Declare the subcommand, its own subcommands and their options."""
    parser: Parser = subparsers.add_parser(
        "data",
        help="build, check, show and cache data sets",
        description="Data sets: made of a folder of pictures, checked, shown, and encoded ahead of training.",
        **keywords,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    _add_build(actions, **keywords)
    data_check.add_check(actions, **keywords)
    data_check.add_show(actions, **keywords)
    data_cache.add_cache(actions, **keywords)
    return parser


def run(args: Namespace) -> int:
    """Run one of the actions. `build` returns 1 if nothing could be written, `check` if there are problems."""
    actions: dict[str, Callable[[Namespace], int]] = {
        "build": _build,
        "check": data_check.run_check,
        "show": data_check.run_show,
        "cache": data_cache.run_cache,
    }
    return actions[args.action](args)


def _add_build(actions: Any, **keywords: Any) -> None:
    build: Parser = actions.add_parser(
        "build",
        help="make a data set of a folder of pictures",
        description="Bring pictures to one size and write them, with their captions, into tar files to train from. "
        "A build that was stopped goes on when the same command is given again.",
        **keywords,
    )
    build.add_argument("folder", metavar="FOLDER", help="pictures at any depth: jpg, png, webp, bmp, tiff, avif")
    build.add_argument(
        "-o", "--output", metavar="OUT", type=Path, required=True, help="a .tar file, or a folder of numbered ones"
    )
    build.add_argument("--shard-size", metavar="N", help="samples, or bytes as in 500MB, of each file (default 10000)")
    build.add_argument("--overwrite", action="store_true", help="build anew what is there already")
    build.add_argument("--workers", metavar="N", type=values.count, help="processes (default: one for each core)")
    build.add_argument("--ask", action="store_true", help="ask for size, crop, resampling, labels and style")

    shape = build.add_argument_group("size and shape")
    shape.add_argument("--size", metavar="N", type=values.count, help="in pixels (default 512)")
    shape.add_argument(
        "--fit", default="width", help="what has that size: width, short or long side, or bucket (default width)"
    )
    shape.add_argument(
        "--crop",
        help="none; center or smart, to a square or to the bucket; square. smart takes where most detail is "
        "(default none, with buckets center)",
    )
    shape.add_argument("--ratios", metavar="A/B,...", help="of the buckets (default: the official ones)")
    shape.add_argument("--resample", help="lanczos, bicubic, bilinear or nearest (default lanczos)")
    shape.add_argument("--background", metavar="COLOUR", default="white", help="under transparency (default white)")
    shape.add_argument("--format", default="jpg", help="jpg, png or webp (default jpg)")
    shape.add_argument(
        "--quality", metavar="N", type=values.count, default=95, help="of jpg and webp, 1 to 100 (default 95)"
    )

    captions = build.add_argument_group("captions")
    captions.add_argument(
        "--captions",
        metavar="WHERE",
        default="sidecar",
        help="sidecar (.txt or .json beside a picture), name or folder (what it is called), a table (.csv, .tsv, "
        ".parquet with columns file and caption), or model:PATH (default sidecar)",
    )
    captions.add_argument("--labels", metavar="A,B", help="added behind every caption")
    captions.add_argument("--style", help="put before every caption, such as Photo, Anime, Comics")
    captions.add_argument("--trigger", metavar="TOKEN", default="", help="put first in every caption, such as [rex]")

    choice = build.add_argument_group("what is left out")
    choice.add_argument("--min-side", metavar="N", type=values.count, default=0, help="pictures with a shorter side")
    choice.add_argument(
        "--blurred", choices=("report", "drop"), default="report", help="blurred pictures (default report)"
    )
    choice.add_argument(
        "--duplicates",
        choices=("report", "drop"),
        default="report",
        help="of pictures that look alike all but the largest (default report)",
    )


def _build(args: Namespace) -> int:
    from littlecascade.data.build import build
    from littlecascade.data.shards import Target

    target = Target.of(args.output, args.shard_size)
    if args.ask:
        _ask(args)
    workers = args.workers or os.cpu_count() or 1
    report = build(args.folder, target, _settings(args), workers=workers, overwrite=args.overwrite)
    print("\n".join(_lines(report, target.path)))
    return 0 if report.written else 1


def _settings(args: Namespace) -> Settings:
    from littlecascade.data.buckets import OFFICIAL
    from littlecascade.data.build import Settings
    from littlecascade.data.captions import Wording, find_style
    from littlecascade.data.fit import Fit
    from littlecascade.data.render import Rendering

    if args.ratios and args.fit != "bucket":
        raise InputError("--ratios are those of buckets: add --fit bucket.")
    fit = Fit(
        size=args.size or 512,
        fit=args.fit,
        crop=args.crop or ("center" if args.fit == "bucket" else "none"),
        filter=args.resample or "lanczos",
        ratios=tuple(_parts(args.ratios)) or OFFICIAL,
    )
    rendering = Rendering(
        fit=fit,
        format=args.format,
        quality=args.quality,
        background=args.background,
        smallest=args.min_side,
        drop_blurred=args.blurred == "drop",
    )
    style = find_style(args.style) if args.style else ""
    wording = Wording(args.trigger.strip(), style, tuple(_parts(args.labels)))
    return Settings(rendering, args.captions, wording, drop_copies=args.duplicates == "drop")


def _parts(text: str | None) -> list[str]:
    """What is between commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _ask(args: Namespace) -> None:
    """Ask on the terminal for what was not given. Raises `InputError` without a terminal."""
    from littlecascade.data.captions import STYLES
    from littlecascade.data.fit import FILTERS

    if not sys.stdin.isatty():
        raise InputError("--ask needs a terminal to ask on: give --size, --crop, --labels and --style instead.")
    if args.size is None:
        args.size = _asked_count("Width in pixels", 512)
    if args.crop is None:
        args.crop = _asked_choice("Cut the pictures first?", _CROPS, "center" if args.fit == "bucket" else "none")
    if args.resample is None:
        args.resample = _asked_choice("How are they resized?", tuple(FILTERS), "lanczos")
    if args.labels is None:
        args.labels = input("Labels for all pictures, with commas between them [none]: ")
    if args.style is None:
        args.style = _asked_choice("Their style?", ("none", *STYLES), "none").removeprefix("none")


def _asked_count(question: str, default: int) -> int:
    while True:
        answer = input(f"{question} [{default}]: ").strip()
        if not answer:
            return default
        if answer.isdecimal() and int(answer):
            return int(answer)
        print("That is no whole number from 1.")


def _asked_choice(question: str, choices: Sequence[str], default: str) -> str:
    """One of the choices, by its number or its name."""
    print(question)
    for number, choice in enumerate(choices, 1):
        print(f"{number:4}. {choice}")
    by_answer = {choice.casefold(): choice for choice in choices}
    by_answer |= {str(number): choice for number, choice in enumerate(choices, 1)} | {"": default}
    while (answer := input(f"Number or name [{default}]: ").strip().casefold()) not in by_answer:
        print("That is none of them.")
    return by_answer[answer]


def _lines(report: Report, path: Path) -> list[str]:
    """What the terminal shows of a report."""
    files = f" in {len(report.shards)} files" if len(report.shards) > 1 else ""
    lines = [f"{path}: {report.written:,} pictures{files}, {report.bytes / 1e6:,.1f} MB"]
    if report.kept:
        lines[0] += f" ({report.kept} of the files were there already)" if files else " (it was there already)"
    for kind, problems in report.left_out.items():
        lines.append(
            f"left out: {len(problems):,} {_REASONS[kind]}: {_named([_told(*problem) for problem in problems])}"
        )
    for kind, problems in report.notes.items():
        lines.append(f"kept: {len(problems):,} {_NOTES[kind]}: {_named([name for name, _ in problems])}")
    if report.copies:
        groups = [" = ".join(group) for group in report.copies]
        count = sum(map(len, report.copies))
        lines.append(f"kept: {count:,} that look alike; --duplicates drop leaves one of each: {_named(groups)}")
    if report.unused:
        lines.append(f"{len(report.unused):,} rows of the table name no picture: {_named(report.unused)}")
    return [*lines, f"report: {report.path}"]


def _told(name: str, detail: str) -> str:
    return f"{name} ({detail})" if detail else name


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
