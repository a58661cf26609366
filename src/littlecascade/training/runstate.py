"""The folder of a run: its resolved configuration, metrics, checkpoints and pictures.

    config.yaml          the configuration as resolved
    metrics.jsonl        one JSON object a line
    state.safetensors    the last checkpoint: everything needed to go on bit for bit
    backup-000500.safetensors
    preview-000500.png
    report.html          curves and pictures
    export/              the finished weights
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from littlecascade.checkpoint import files
from littlecascade.errors import InputError


@dataclass(frozen=True)
class Checkpoint:
    """`step` counts the updates that went into `tensors`; `skipped` those that were not finite."""

    step: int
    skipped: int
    tensors: Mapping[str, Tensor]


class RunFolder:
    """Reads and writes the files of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_path = folder / "state.safetensors"
        self.metrics_path = folder / "metrics.jsonl"
        self.export_folder = folder / "export"

    def open(self, config: Mapping[str, Any]) -> None:
        """Make the folder and write the configuration. Raises `InputError` where that can't be done."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / "config.partial.yaml"
            temporary.write_text(yaml.safe_dump(dict(config), sort_keys=False), "utf-8")
            os.replace(temporary, self.folder / "config.yaml")
        except OSError as error:
            raise InputError(f"The run folder {self.folder} can't be written: {error.strerror or error}.") from None

    def save(self, checkpoint: Checkpoint, *, backup: bool = False) -> None:
        """Write a checkpoint; the previous one stays whole until the new one is complete."""
        metadata = {"step": str(checkpoint.step), "skipped": str(checkpoint.skipped)}
        files.save(self.state_path, checkpoint.tensors, metadata)
        if backup:
            files.save(self.folder / f"backup-{checkpoint.step:06d}.safetensors", checkpoint.tensors, metadata)

    def load(self) -> Checkpoint | None:
        """The last checkpoint, or None for a run that has none; metrics that came after it are dropped."""
        checkpoint = self.peek()
        self._keep_metrics(0 if checkpoint is None else checkpoint.step)
        return checkpoint

    def peek(self) -> Checkpoint | None:
        """The last checkpoint, or None; changes nothing in the folder, so that the run may be going on meanwhile."""
        if not self.state_path.is_file():
            return None
        metadata = files.metadata(self.state_path)
        return Checkpoint(int(metadata["step"]), int(metadata["skipped"]), files.load(self.state_path))

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to the metrics."""
        with self.metrics_path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")

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
            text = "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step)
            temporary = self.folder / "metrics.partial.jsonl"
            temporary.write_text(text, "utf-8")
            os.replace(temporary, self.metrics_path)
