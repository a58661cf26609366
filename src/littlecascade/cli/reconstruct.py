"""`littlecascade reconstruct`: a picture through the compressor and back, and what that cost it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littlecascade.cli.files import plan_outputs

if TYPE_CHECKING:
    from littlecascade.cli.parser import Parser


def add_parser(subparsers: Any, **keywords: Any) -> Parser:
    """Declare the subcommand and its options."""
    parser: Parser = subparsers.add_parser(
        "reconstruct",
        help="compress pictures and draw them from that alone",
        description="Compress pictures to Stage C's latents, draw them from those alone (Stage B, Stage A), and write "
        "original and reconstruction side by side.",
        **keywords,
    )
    parser.add_argument("pictures", metavar="IMAGE", nargs="+", help="picture files")
    parser.add_argument("--model", default="tiny", help="which cascade reconstructs (default tiny)")
    parser.add_argument("-o", "--output", metavar="FILE|FOLDER", help="a .png file, or a folder (default: this one)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser


def run(args: Namespace) -> int:
    """Reconstruct, save and print path, PSNR and compression factor of every picture, one a line."""
    stems = [f"{Path(picture).stem}-reconstruction" for picture in args.pictures]
    paths = plan_outputs(args.output, stems, overwrite=args.overwrite)

    from littlecascade import Cascade
    from littlecascade.data.pixels import open_picture

    originals = [open_picture(picture) for picture in args.pictures]
    cascade = Cascade.load(args.model)
    for original, path in zip(originals, paths, strict=True):
        result = cascade.reconstruct(original)
        result.side_by_side.save(path)
        print(f"{path}  PSNR {result.psnr:.1f} dB, compressed {result.compression_factor:.0f} times")
    return 0
