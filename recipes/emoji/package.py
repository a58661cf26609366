"""Collects what the runs exported into the folder of weights that the package ships, with a model card.

    python recipes/emoji/package.py [--runs runs/emoji] [--out src/littlecascade/weights/tiny] [--quality FILE]

Refuses when something is missing, is not float16, or is too large in all, and when the collected cascade does not draw.
`--quality` takes the `quality.json` that `benchmarks/quality.py` wrote for these very weights, so it comes second:
package, measure, package again. `--from-checkpoint` first exports every run as it is at its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from safetensors import safe_open

from littlecascade import Cascade, __version__
from littlecascade.errors import InputError
from littlecascade.models.config import to_dict
from littlecascade.pipelines.model import Model
from littlecascade.presets import PRESETS
from littlecascade.training.run import export
from littlecascade.training.runstate import RunFolder

HERE = Path(__file__).parent
LARGEST = 60_000_000  # bytes of all weights together
PRESET = PRESETS["tiny"]


@dataclass(frozen=True)
class Run:
    """A training run: its folder, its kind (`littlecascade train KIND`), and what of its export goes where."""

    folder: str
    kind: str
    files: Mapping[str, str]


TEXT_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
IMAGE_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")

RUNS = (
    Run("text", "text", {name: f"text/{name}" for name in TEXT_FILES}),
    Run("stage_a", "a", {}),  # its encoder is in what the next run exports
    Run("stage_a_decoder", "a", {"stage_a.safetensors": "stage_a.safetensors"}),
    Run(
        "compressor",
        "compressor",
        {f"{name}.safetensors": f"{name}.safetensors" for name in ("effnet_encoder", "previewer")},
    ),
    Run("image", "image", {name: f"image/{name}" for name in IMAGE_FILES}),
    Run("stage_b", "b", {"stage_b.safetensors": "stage_b.safetensors"}),
    Run("stage_c", "c", {"stage_c.safetensors": "stage_c.safetensors"}),
)
"""In the order in which they are trained."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; a refusal is one line and exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/emoji"), help="folder of the runs and of data/")
    parser.add_argument("--out", type=Path, default=Path("src/littlecascade/weights/tiny"), help="folder to write")
    parser.add_argument("--quality", type=Path, help="quality.json of benchmarks/quality.py")
    parser.add_argument("--hardware", default="2 cores of an x86 CPU, no GPU", help="what the runs were trained on")
    parser.add_argument("--from-checkpoint", action="store_true", help="export the runs' last checkpoints first")
    options = parser.parse_args(arguments)
    try:
        if options.from_checkpoint:
            for run in RUNS:
                export(run.kind, options.runs / run.folder / "config.yaml")
        size = package(options.runs, options.out, options.quality, options.hardware)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}  {size / 1e6:.1f} MB")
    return 0


def package(runs: Path, out: Path, quality: Path | None, hardware: str) -> int:
    """Write `out` whole or not at all, and return its size in bytes. Raises `InputError` for what is not in order."""
    sources = collect(runs)
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        for place, source in sources.items():
            (new / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, new / place)
        write_json(new / "cascade.json", to_dict(PRESET.drawing))
        check(new)
        (new / "MODEL_CARD.md").write_text(model_card(new, runs, quality, hardware), "utf-8")
        replace_folder(out, new)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder_size(out)


def collect(runs: Path) -> dict[str, Path]:
    """Where each file of the packaged folder comes from. Raises `InputError` that lists all that are missing."""
    sources = {place: runs / run.folder / "export" / name for run in RUNS for name, place in run.files.items()}
    missing = [str(source) for source in sources.values() if not source.is_file()]
    if missing:
        raise InputError(f"Not there: {', '.join(missing)}. Finish these runs, or give --from-checkpoint.")
    return sources


def check(folder: Path) -> None:
    """Raise `InputError` unless the folder is small enough, its weights are float16, and it draws and reconstructs."""
    if (size := folder_size(folder)) > LARGEST:
        raise InputError(f"The weights take {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f} MB.")
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "np") as file:
            names = file.keys()
            kinds = {file.get_slice(name).get_dtype() for name in names}
        if other := kinds - {"F16", "I64"}:
            raise InputError(f"{path.name} holds {', '.join(sorted(other))}; only F16 and counters (I64) are shipped.")
    cascade = Cascade.load(str(folder))
    cascade.reconstruct(cascade.generate("a red apple", seed=0).images[0])


def replace_folder(out: Path, new: Path) -> None:
    """Put `new` where `out` is, so that `out` is missing for an instant only."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def model_card(folder: Path, runs: Path, quality: Path | None, hardware: str) -> str:
    """`model_card.md.in`, filled in with what was trained and measured."""
    digest = Model.find(str(folder)).digest
    files = [
        (str(path.relative_to(folder)), path.stat().st_size) for path in sorted(folder.rglob("*")) if path.is_file()
    ]
    return Template((HERE / "model_card.md.in").read_text("utf-8")).substitute(
        size=PRESET.drawing.image_size,
        version=__version__,
        digest=digest,
        files=table(("file", "MB"), [(f"`{name}`", f"{size / 1e6:.2f}") for name, size in files]),
        attribution=(runs / "data" / "ATTRIBUTION.md").read_text("utf-8").partition("\n")[2].strip(),
        hardware=hardware,
        training=training_table(runs),
        quality=quality_table(quality, digest),
        commands=commands(),
    )


def training_table(runs: Path) -> str:
    """What each run did and how long it took, from its metrics and configuration."""
    rows: list[tuple[str, ...]] = []
    hours = 0.0
    for run in RUNS:
        folder = RunFolder(runs / run.folder)
        metrics, config = folder.metrics(), folder.config()
        if not metrics:
            raise InputError(f"{folder.metrics_path} says nothing of how long the run took.")
        updates, spent = metrics[-1]["step"], seconds(metrics) / 3600
        hours += spent
        seen = updates * config["batch_size"]
        rows.append(
            (run.folder, f"{updates:,}", str(config["batch_size"]), f"{seen:,}", config["precision"], f"{spent:.2f}")
        )
    rows.append(("in all", "", "", "", "", f"{hours:.2f}"))
    return table(("run", "updates", "batch", "pictures or texts seen", "precision", "hours"), rows)


def seconds(metrics: Sequence[Mapping[str, float]]) -> float:
    """The time of all updates: each row holds the mean of the updates since the row before it."""
    ends = [int(row["step"]) for row in metrics]
    return sum(row["seconds"] * (end - start) for row, start, end in zip(metrics, [0, *ends], ends, strict=False))


def quality_table(quality: Path | None, digest: str) -> str:
    """The measured figures. Raises `InputError` if they are another model's or a quick look's."""
    if quality is None:
        return "Not measured yet: `python benchmarks/quality.py` does it."
    report = json.loads(quality.read_text("utf-8"))
    if report["digest"] != digest:
        raise InputError(f"{quality} is about weights with the digest {report['digest']}; these have {digest}.")
    if report["quick"]:
        raise InputError(f"{quality} was measured with --quick; the card takes whole measurements only.")
    note = f"By `benchmarks/quality.py` at default settings, seed {report['seed']}, none picked; the script says how."
    return f"{note}\n\n{report['table']}"


def commands() -> str:
    """The commands of the recipe's README, in their order."""
    text = (HERE / "README.md").read_text("utf-8")
    return text.partition("<!-- commands -->\n```\n")[2].partition("\n```")[0]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def folder_size(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Writes an object as indented JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
