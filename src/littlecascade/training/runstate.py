"""The folder of a run: its resolved configuration, metrics, checkpoints and pictures.

- config.yaml: the configuration as resolved
- metrics.jsonl: one JSON object a line
- state.safetensors: the last checkpoint, everything needed to go on bit for bit
- backup-000500.safetensors: the checkpoint of an earlier update
- preview-000500.png, report.html: pictures and curves
- timetable.json: how many updates fit the time that the run was given, if it was
- export/: the finished weights
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.errors import InputError


@dataclass(frozen=True)
class Checkpoint:
    """`step` counts the updates that went into `tensors`; `skipped` those that were not finite.

    place: where the data go on, in values that JSON can keep; empty where that follows from `step`.
    """

    step: int
    skipped: int
    tensors: Mapping[str, Tensor]
    place: Mapping[str, Any] = field(default_factory=dict)


class RunFolder:
    """Reads and writes the files of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_path = folder / "state.safetensors"
        self.metrics_path = folder / "metrics.jsonl"
        self.export_folder = folder / "export"

    def config(self) -> dict[str, Any]:
        """The configuration that the run was last started with; `{}` for a new run."""
        path = self.folder / "config.yaml"
        try:
            return yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}
        except (OSError, yaml.YAMLError) as error:
            raise InputError(f"{path}, which this run's own start wrote, can't be read: {error}") from None

    def open(self, config: Mapping[str, Any]) -> None:
        """Make the folder and write the configuration. Raises `InputError` where that can't be done."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.write("config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
        except OSError as error:
            raise InputError(f"The run folder {self.folder} can't be written: {error.strerror or error}.") from None

    def set_aside(self) -> Path | None:
        """Move the folder, if there is one, beside itself under a new name, and return that."""
        if not self.folder.is_dir():
            return None
        names = (self.folder.with_name(f"{self.folder.name}-before-{number}") for number in count(1))
        aside = next(name for name in names if not name.exists())
        try:
            return self.folder.rename(aside)
        except OSError as error:
            raise InputError(f"{self.folder} can't be moved to {aside}: {error.strerror or error}.") from None

    def write(self, name: str, text: str) -> None:
        """Write a text file whole or not at all."""
        files.write_text(self.folder / name, text)

    def has_preview(self, step: int) -> bool:
        """Whether the preview of an update is there."""
        return self._preview_path(step).is_file()

    def write_preview(self, step: int, image: Image.Image) -> None:
        """Write the preview of an update whole or not at all."""
        buffer = io.BytesIO()
        image.save(buffer, "png")
        files.write_bytes(self._preview_path(step), buffer.getvalue())

    def _preview_path(self, step: int) -> Path:
        return self.folder / f"preview-{step:06d}.png"

    def save(self, checkpoint: Checkpoint, *, backup: bool = False) -> None:
        """Write a checkpoint; the previous one stays whole until the new one is complete.

        backup: also under a name of its own, and first: a run that is killed between the two goes on before this
        update and comes by it again, while one that had only the other would never make its backup.
        Raises `OSError` where it can't be written, say for a full disk.
        """
        metadata = {"step": str(checkpoint.step), "skipped": str(checkpoint.skipped)}
        if checkpoint.place:
            metadata["place"] = json.dumps(checkpoint.place)
        backups = [self.folder / f"backup-{checkpoint.step:06d}.safetensors"] if backup else []
        for path in [*backups, self.state_path]:
            try:
                files.save(path, checkpoint.tensors, metadata)
            except OSError as error:
                raise OSError(
                    f"The checkpoint of update {checkpoint.step} can't be written to {path} ({error}). What was there "
                    "before is untouched: make room, and the same command goes on from it."
                ) from error

    def load(self) -> Checkpoint | None:
        """The last checkpoint, or None for a run that has none; metrics that came after it are dropped.

        For the one process that goes on with the run: what it left half written when it was killed is removed, too.
        """
        for folder in (self.folder, self.export_folder):
            files.clear(folder)
        checkpoint = self.peek()
        self._keep_metrics(0 if checkpoint is None else checkpoint.step)
        return checkpoint

    def peek(self) -> Checkpoint | None:
        """The last checkpoint, or None; changes nothing in the folder, so that the run may be going on meanwhile."""
        if not self.state_path.is_file():
            return None
        metadata = files.metadata(self.state_path)
        if not {"step", "skipped"} <= metadata.keys():
            raise InputError(f"{self.state_path} is no checkpoint of a run: it does not say how far it is.")
        place = json.loads(metadata.get("place", "{}"))
        return Checkpoint(int(metadata["step"]), int(metadata["skipped"]), files.load(self.state_path), place)

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to the metrics."""
        with self.metrics_path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(row, allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All rows; a last line that was cut off by a crash is left out."""
        if not self.metrics_path.is_file():
            return []
        rows: list[dict[str, Any]] = []
        for line in self.metrics_path.read_text("utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def _keep_metrics(self, step: int) -> None:
        rows = self.metrics()
        if rows:
            self.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))
