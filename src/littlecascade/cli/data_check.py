"""`littlecascade data check` and `data show`: what is in a data set and what is wrong with it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littlecascade.cli import parser as values
from littlecascade.errors import InputError

if TYPE_CHECKING:
    from littlecascade.cli.parser import Parser
    from littlecascade.data.check import Report
    from littlecascade.data.findings import Finding

_SOURCE = "folders of pictures or of tar shards, tar files, globs such as 'train-*.tar'"
_NARROWEST = 60  # columns
_LABEL = 22  # columns that a row's label takes


def add_check(actions: Any, **keywords: Any) -> Parser:
    """Declare `data check` and its options."""
    parser: Parser = actions.add_parser(
        "check",
        help="say what is in a data set and what is wrong with it",
        description="Look at every sample of a data set: whether it decodes, its size, its caption, its doubles. "
        "The exit status is 0 if all is well, 1 if there are problems, 2 if nothing can be read. Pictures that look "
        "alike, and members that belong to no sample, are named, but are no problems.",
        **keywords,
    )
    _add_wanted(parser)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the whole report into this file")
    return parser


def add_show(actions: Any, **keywords: Any) -> Parser:
    """Declare `data show` and its options."""
    parser: Parser = actions.add_parser(
        "show",
        help="write a page with every picture, its caption and its problems",
        description="Check a data set and write one HTML page with a thumbnail of every picture, to be searched and "
        "filtered in a browser. It needs no network and no other file.",
        **keywords,
    )
    _add_wanted(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path("data.html"), help="the page (default data.html)"
    )
    return parser


def run_check(args: Namespace) -> int:
    """Print the report. Returns 1 if there are problems."""
    if args.json is not None:
        _check_target("--json", args.json, ".json")
    report = _report(args)
    if args.json is not None:
        _write(args.json, json.dumps(report.to_json(), indent=1) + "\n")
    _print(_text(report, max(_NARROWEST, shutil.get_terminal_size().columns)))
    return 0 if report.clean else 1


def run_show(args: Namespace) -> int:
    """Write the page and print its path, whatever the problems."""
    from littlecascade.data.page import Page

    _check_target("-o", args.output, ".html")
    with Page(args.output, ", ".join(args.source)) as page:
        page.finish(_report(args, page.add))
    _print([str(args.output)])
    return 0


def _add_wanted(parser: Parser) -> None:
    parser.add_argument("source", metavar="SOURCE", nargs="+", help=_SOURCE)
    parser.add_argument(
        "--size", type=values.count, default=1024, help="that training is to have: a square's side (default 1024)"
    )
    parser.add_argument(
        "--ratios", metavar="W/H,...", help="of the buckets, each also turned over (default: the official twelve)"
    )
    parser.add_argument("--tokens", type=values.count, default=77, help="that captions may have (default 77)")
    parser.add_argument(
        "--tokenizer", metavar="FOLDER", type=Path, help="a CLIP tokenizer's (default: the shipped one)"
    )


def _report(args: Namespace, thumbnail: Callable[[bytes], object] | None = None) -> Report:
    from littlecascade.checkpoint import places
    from littlecascade.conditioning.tokenizer import ClipTokenizer
    from littlecascade.data.buckets import OFFICIAL
    from littlecascade.data.check import Wanted, check

    ratios = OFFICIAL if args.ratios is None else tuple(args.ratios.split(","))
    wanted = Wanted(args.size, ratios, args.tokens)
    tokenizer = ClipTokenizer.load(args.tokenizer or places.packaged("tiny") / "text")
    return check(args.source, wanted, lambda caption: len(tokenizer.encode(caption)) + 2, thumbnail)


def _check_target(option: str, path: Path, suffix: str) -> None:
    """Raise `InputError`, before the long work, where a report can't be written; no picture is ever overwritten."""
    if path.suffix.lower() != suffix:
        raise InputError(f"{option} {str(path)!r}: its name must end in {suffix}, such as {path.stem}{suffix}.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{option} {str(path)!r}: there is no folder {str(path.parent)!r}.")
    if path.is_dir():
        raise InputError(f"{option} {str(path)!r} is a folder: name a file.")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _print(lines: Sequence[str]) -> None:
    """Print names in any encoding on any terminal: what it can't show is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        print(_visible(line).encode(encoding, "backslashreplace").decode(encoding))


def _visible(text: str) -> str:
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _text(report: Report, width: int) -> list[str]:
    """The report in one screen: counts first, then each kind of problem with the first few names."""
    return [*_counts(report, width), "", *_findings(report, width)]


def _counts(report: Report, width: int) -> Iterator[str]:
    summary, wanted = report.summary, report.wanted
    yield f"{summary.samples:,} samples, {summary.samples - summary.sizes.total():,} of them can't be decoded"
    if summary.sizes:
        sizes = [f"{w}x{h} ({n:,})" for (w, h), n in summary.sizes.most_common()]
        ratios = [f"{ratio:g} ({n:,})" for ratio, n in summary.ratios.most_common()]
        buckets = [f"{w}x{h} ({n:,})" for (w, h), n in summary.buckets.most_common()]
        lost = f"to buckets {summary.bucket_loss:.1%}, to a square {summary.square_loss:.1%}"
        yield _row("sizes", sizes, width)
        yield _row("width / height", ratios, width)
        yield _row(f"buckets at {wanted.size}", buckets, width)
        yield _row("area lost by cropping", [lost], width)
    lengths = sorted(summary.tokens.elements())
    if lengths:
        middle = lengths[len(lengths) // 2]
        spread = f"{lengths[0]} to {lengths[-1]} tokens (median {middle}, limit {wanted.tokens})"
        yield _row("captions", [f"{len(lengths):,}, with {spread}"], width)


def _findings(report: Report, width: int) -> Iterator[str]:
    """A row for each kind of finding, and how many there are."""
    from littlecascade.data.findings import Kind

    if report.clean:
        yield "no problems"
    for kind in Kind:
        found = report.of(kind)
        if found:
            label = f"{kind} ({len(found):,})" if kind.is_problem else f"note: {kind} ({len(found):,})"
            yield _row(label, [_said(finding) for finding in found], width)


def _said(finding: Finding) -> str:
    return f"{finding.name}: {finding.detail}" if finding.detail else finding.name


def _row(label: str, entries: Sequence[str], width: int) -> str:
    """A label, as many entries as fit into the width, the first one shortened if need be, and how many more there are.

    >>> _row("sizes", ["640x480 (3)", "10x10 (2)", "9x9 (1)"], 50)
    'sizes                  640x480 (3); 2 more'
    """
    room = width - _LABEL - 1 - len("; 10,000 more")
    line, kept = "", 0
    for entry in entries:
        longer = f"{line}; {entry}" if line else _shortened(entry, room)
        if len(longer) > room:
            break
        line, kept = longer, kept + 1
    rest = f"; {len(entries) - kept:,} more" if kept < len(entries) else ""
    return f"{label:<{_LABEL}} {line}{rest}"


def _shortened(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 3]}..."
