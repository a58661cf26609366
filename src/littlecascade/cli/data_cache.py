"""`littlecascade data cache`: latents and embeddings of a data set, computed ahead of training."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littlecascade.cli import parser as values

if TYPE_CHECKING:
    from littlecascade.cli.parser import Parser


def add_cache(actions: Any, **keywords: Any) -> Parser:
    """Declare `data cache` and its options."""
    parser: Parser = actions.add_parser(
        "cache",
        help="compute what a training run needs of a data set, ahead of it",
        description="Compute the latents and embeddings that a training run needs, and keep them where the run will "
        "find them. What is there already is left as it is. Under torchrun or in a SLURM array each process makes its "
        "share.",
        **keywords,
    )
    parser.add_argument("source", metavar="SOURCE", help="the data set, as webdataset_path would name it")
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the run configuration, a YAML file")
    parser.add_argument("--task", metavar="TASK", help="which training the configuration is for, if it does not tell")
    parser.add_argument("--share", metavar="K/N", help="make the K-th of N shares (default: as torchrun or SLURM say)")
    values.add_overrides(parser)
    return parser


def run_cache(args: Namespace) -> int:
    """Fill the cache, and print where it is."""
    from littlecascade.training.kinds import kind_of
    from littlecascade.training.processes import Share
    from littlecascade.training.run import cache

    share = Share.of(os.environ) if args.share is None else Share.parse(args.share)
    overrides = [*args.overrides, f"webdataset_path={json.dumps(args.source)}"]
    filled = cache(args.task or kind_of(args.config, overrides), args.config, overrides, share)
    own = "" if share.world_size == 1 else f" of this share's {filled.share}"
    print(f"{filled.folder}: {filled.samples} samples, {filled.made}{own} parts were missing and are made")
    return 0
