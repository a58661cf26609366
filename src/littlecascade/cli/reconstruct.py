"""`littlecascade reconstruct`: pictures through the compressor and back, and what that cost them."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littlecascade.cli import drawing_options as options
from littlecascade.cli import parser as values
from littlecascade.cli.drawing import Job, open_cascade, report
from littlecascade.cli.files import plan_latents, plan_outputs
from littlecascade.cli.saving import Files
from littlecascade.errors import InputError

if TYPE_CHECKING:
    from littlecascade import Cascade
    from littlecascade.cli.parser import Parser
    from littlecascade.pipelines.results import Result

_SEED = options.Setting(values.seed, "seed of the noise that Stage B starts from (default 0)")
_DECODING = options.PICTURE | {"seed": _SEED} | options.DECODER
_SETTINGS = options.BACKGROUND | _DECODING


def add_parser(subparsers: Any, **keywords: Any) -> Parser:
    """Declare the subcommand and its options."""
    parser: Parser = subparsers.add_parser(
        "reconstruct",
        usage="%(prog)s IMAGE... [options]",
        help="compress pictures and draw them from that alone",
        description="Compress pictures to Stage C's latents, draw them from those alone (Stage B, Stage A), and write "
        "original and reconstruction side by side.",
        **keywords,
    )
    parser.add_argument("pictures", metavar="IMAGE", nargs="*", help="picture files")
    parser.add_argument(
        "--from-latents", metavar="FILE", type=Path, help="draw what --save-latents wrote, in place of pictures"
    )
    options.add_settings(parser, _SETTINGS)
    options.add_machine(parser)
    options.add_files(parser)
    return parser


def run(args: Namespace) -> int:
    """Reconstruct, save and print path, PSNR, SSIM and compression factor of every picture, one a line."""
    if args.from_latents is not None:
        return _decode(args)
    job = Job.of(args, "reconstruct", _SETTINGS, pictures=args.pictures)
    if not job.pictures:
        raise InputError("there is no picture to reconstruct. Give one: littlecascade reconstruct apple.png")
    stems = [f"{Path(picture).stem}-reconstruction" for picture in job.pictures]
    paths = plan_outputs(args.output, stems, overwrite=args.overwrite)
    latents = plan_latents(args.save_latents, len(paths), overwrite=args.overwrite)

    from littlecascade.cli.progress import Progress

    cascade = open_cascade(args, job.recipe)
    _check(cascade, job)
    results: list[Result] = []
    with Progress(sys.stderr, pictures=not args.no_preview) as progress, Files(paths, progress) as files:
        for place, picture in enumerate(job.pictures):
            result = replace(job, pictures=[picture]).run(cascade, callback=progress)
            files.add(place, result.side_by_side, result.recipe, _measured(result))
            for path in latents[place : place + 1]:
                result.save_latents(path)
                files.tell(path)
            results.append(result)
    if args.verbose:
        report(results, cascade)
    return 0


def _decode(args: Namespace) -> int:
    """Draw the latents of a file, and print the path of every picture."""
    for option, value in (("IMAGE", args.pictures), ("--from", args.source), ("--save-latents", args.save_latents)):
        if value:
            raise InputError(f"--from-latents draws what a file holds: leave {option} out.")

    from littlecascade.cli.progress import Progress
    from littlecascade.pipelines.results import load_latents

    latents = load_latents(args.from_latents)
    paths = plan_outputs(args.output, [args.from_latents.stem] * len(latents), overwrite=args.overwrite)
    cascade = open_cascade(args, {})
    with Progress(sys.stderr, pictures=not args.no_preview) as progress, Files(paths, progress) as files:
        result = cascade.decode(latents, **options.given(args, _DECODING), callback=progress, on_picture=files.add)
    if args.verbose:
        report([result], cascade)
    return 0


def _check(cascade: Cascade, job: Job) -> None:
    """Raise `InputError` for a picture that can't be read or drawn, before the first is."""
    from littlecascade.pipelines.pictures import open_sources
    from littlecascade.pipelines.size import size_like

    for source in open_sources(job.pictures, job.arguments.get("background", "white")):
        if "size" not in job.arguments:
            size_like(source.image.size, cascade.drawing.image_size)


def _measured(result: Result) -> str:
    """What one reconstruction cost its picture."""
    (found,) = result.metrics
    return (
        f"PSNR {found['psnr']:.1f} dB, SSIM {found['ssim']:.3f}, compressed {found['compression_factor']:.0f} times "
        f"({found['side_factor']:.1f} along a side)"
    )
