"""The one training loop: accumulation, clipping, the finite check, averages, checkpoints, metrics and previews."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import NoReturn

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from littlecascade.checkpoint.lazy import LazyTensors
from littlecascade.data.order import derive_seed
from littlecascade.errors import InputError
from littlecascade.memory import rescale
from littlecascade.models.trunk import Trunk
from littlecascade.nn.blocks import Factor
from littlecascade.training.config import RunConfig
from littlecascade.training.draws import Draws
from littlecascade.training.ema import Ema
from littlecascade.training.export import export_averages
from littlecascade.training.interrupt import deferred_interrupt
from littlecascade.training.metrics import Log, mean
from littlecascade.training.offload import offload
from littlecascade.training.optim.optimizer import PhaseOptimizer
from littlecascade.training.optim.schedule import lr_scale
from littlecascade.training.optim.weight import Weight
from littlecascade.training.report import Report
from littlecascade.training.room import OutOfRoomError, Room, clear, ended, ending, is_out_of_memory, reason
from littlecascade.training.runstate import Checkpoint, RunFolder
from littlecascade.training.task import Batch, Phase, Task, on_device
from littlecascade.training.timetable import Timetable
from littlecascade.training.trackers import Tracker, opened


class Trainer:
    """Runs a task to its last update, or until told to stop; the same call goes on where the last one ended.

    All random choices of update n derive from (seed, n), so there is no generator state to keep and a run that was
    killed ends with the same weights, bit for bit, as one that was not. Raises `InputError` if the folder's checkpoint
    is of another network.
    """

    def __init__(self, task: Task, config: RunConfig, folder: RunFolder) -> None:
        self.task, self.config, self.folder = task, config, folder
        self.step = self.skipped = 0
        self.timetable = Timetable(folder, config)
        self.report = Report(folder, config, lambda: task.broken)
        self.trackers: Sequence[Tracker] = ()
        self.room = Room(config, task.networks)
        self.lane = offload(task, config)
        self.optimizers = {phase.name: PhaseOptimizer(phase.parameters(), config, self.lane) for phase in task.phases}
        for phase in task.phases:
            self.optimizers[phase.name].divide(_divide(phase))
        beta, every, start = config.ema_beta, config.ema_iters, config.ema_start_iters
        self.ema = Ema(self._averaging(), beta=beta, every=every, start=start, lane=self.lane)
        checkpoint = folder.load()
        if checkpoint is not None:
            self._restore(checkpoint)

    @property
    def updates(self) -> int:
        """Of the whole run, as far as is known now."""
        return self.timetable.total(self.step)

    def run(
        self, max_minutes: float | None = None, *, minutes: float | None = None, since: float | None = None
    ) -> bool:
        """Train. True when the last update is done, False when stopped first, by time, Ctrl-C or a polite kill.

        max_minutes: after which it stops. minutes, since: see `Timetable.begin`. When the last update is done the
        averaged weights are exported, and the task's modules are left with them.
        """
        deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.timetable.begin(self.step, minutes, since)
        log = Log(self.config.batch_size, self._log)
        with opened(self.config, self.folder.folder, self.step) as self.trackers, deferred_interrupt() as interrupted:
            if self._shows_preview() and not self.folder.has_preview(self.step):
                self.preview()  # the first of all, or one that the run was killed before it could draw
            with self._saved_when_short(), self._bar() as bar, ThreadPoolExecutor(1) as pool:
                upcoming = pool.submit(self.fetch, self.step)
                while self.step < self.updates and not interrupted.is_set():
                    if time.monotonic() >= deadline or self.timetable.up:
                        break
                    upcoming = self._update(upcoming, pool, log)
                    self._show(bar, log)
                    self._keep(upcoming)
            log.flush(self.step, self.updates)
            self.save()
            if self.step < self.updates:
                self.report.write(running=False)
                return False
            self.preview(running=False)
        self.export()
        return True

    @contextmanager
    def _saved_when_short(self) -> Iterator[None]:
        """Within: where memory ran out and an update was left whole, a checkpoint is what it goes on from."""
        try:
            yield
        except OutOfRoomError as error:
            if error.whole and len(self.task.phases) == 1:  # of several the first may have had its turn
                self.save()
            raise

    def export(self) -> None:
        """Write the averaged weights, which the task's modules are left with, in float32."""
        export_averages(self.task, self._tensors(), self.folder)

    def _bar(self) -> tqdm[NoReturn]:
        """Only on a terminal."""
        return tqdm(
            total=self.updates, initial=self.step, desc=self.config.experiment_id, disable=None, unit=" updates"
        )

    def _show(self, bar: tqdm[NoReturn], log: Log) -> None:
        bar.total = self.updates
        bar.set_postfix(log.latest, refresh=False)
        bar.update()

    def _keep(self, upcoming: Future[list[Batch]]) -> None:
        """Write the checkpoint and the preview that are due after an update, but for the last one."""
        if self.step >= self.updates:
            return
        if self.step % self.config.save_every == 0:
            wait([upcoming])  # so that the feed knows where its next batch begins
            self.save()
        if self._shows_preview():
            self.preview()

    def _log(self, row: dict[str, float | None]) -> None:
        self.folder.log(row)
        for tracker in self.trackers:
            tracker.scalars(self.step, row)

    def save(self) -> None:
        """Write a checkpoint of this moment, and a backup of it where one is due."""
        tensors = _merged(self._tensors(), self._moments())
        backup = self.config.backup_every is not None and self.step % self.config.backup_every == 0
        place = self.task.feed.state(self._number(self.step))
        with self.timetable.apart("save"):
            self.folder.save(Checkpoint(self.step, self.skipped, tensors, place), backup=backup)
        self.timetable.record()

    def _shows_preview(self) -> bool:
        """Whether one is due after this update, which is not the last."""
        every = self.config.preview_every or self.config.save_every
        return self.step < self.updates and self.step % every == 0

    def preview(self, *, running: bool = True) -> None:
        """Draw the task's preview with the averaged weights, and renew the report."""
        image = self._picture()
        if image is not None:
            self.folder.write_preview(self.step, image)
            for tracker in self.trackers:
                tracker.picture(self.step, image)
        self.report.write(running=running)

    def _picture(self) -> Image.Image | None:
        """None also where memory is too short for one: no run ends for that."""
        try:
            with self.timetable.apart("preview"), self.averaged():
                return self.task.preview()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            _say(f"Update {self.step}: no preview, since memory ran out for it ({reason(error)}).")
        clear()
        return None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within: the modules hold the averaged weights and buffers, evaluate, and keep no gradients."""
        weights, statistics = ({}, {}) if self.ema.idle else (self._weights(), self._statistics())
        tensors = {name: weight.parameter for name, weight in weights.items()} | statistics
        keep = torch.clone if self.lane is None else self.lane.home
        current = {name: keep(tensor.detach()) for name, tensor in tensors.items()}
        modes = {module: module.training for phase in self.task.phases for module in phase.modules.values()}
        with torch.no_grad():
            try:
                for name, weight in weights.items():
                    weight.show(self.ema.average[name])
                for name, tensor in statistics.items():
                    tensor.copy_(self.ema.average[name])
                for module in modes:
                    module.eval()
                yield
            finally:
                for name, tensor in tensors.items():
                    tensor.copy_(current[name])
                for module, training in modes.items():
                    module.train(training)

    def update(self, batches: list[Batch]) -> dict[str, float]:
        """Train on the micro-batches of an update, which `fetch` gave. Returns the figures for the metrics."""
        updates = self.updates
        progress = self.step / updates
        figures: dict[str, float] = {"lr": self.config.lr * lr_scale(self.step, self.config, updates)}
        for phase in self.task.phases:
            if progress >= phase.start:
                figures |= self._train_phase(phase, batches, progress)
        self.step += 1
        self.ema.update(self._averaging(), self.step)
        return figures

    def fetch(self, step: int) -> list[Batch]:
        """The micro-batches of an update; runs in a thread while the one before is computed."""
        batches: list[Batch] = []
        for micro in range(self.config.grad_accum_steps):
            raw = self.task.feed.take(self._number(step, micro))
            batches.append(self.task.prepare(raw, Draws(self.config.seed, self._positions(step, micro))))
        return batches

    def _update(self, upcoming: Future[list[Batch]], pool: ThreadPoolExecutor, log: Log) -> Future[list[Batch]]:
        start = time.perf_counter()
        batches = upcoming.result()
        waited = time.perf_counter() - start
        upcoming = pool.submit(self.fetch, self.step + 1)
        figures = self.update(batches)
        seconds = time.perf_counter() - start
        figures |= {"seconds": seconds, "wait": waited / seconds, "skipped": float(self.skipped)}
        self.timetable.tick(self.step)
        if log.add(self.step, self.updates, figures):
            self.report.renew()
        return upcoming

    def _train_phase(self, phase: Phase, batches: list[Batch], progress: float) -> dict[str, float]:
        """One step of one optimizer. Where the loss or the gradient is not finite it leaves everything as it was."""
        optimizer = self.optimizers[phase.name]
        restore_buffers, restore_task = _kept(self._buffers()), _kept(self.task.extra_state())
        while isinstance(figures := self._gradients(phase, batches, progress), str):
            clear()
            restore_buffers()
            restore_task()
            _say(f"Update {self.step + 1}: memory ran out ({figures}); {self.room.make()}.")
        finite = all(map(math.isfinite, figures["loss"]))
        with ending("for the optimizer's state", self.room.present):
            norm = optimizer.step() if finite else math.nan
        if not math.isfinite(norm):
            self.skipped += not (finite and optimizer.scale.absorb())
            restore_buffers()
        losses = figures.pop("loss")
        prefix = "" if len(self.task.phases) == 1 else f"{phase.name}_"
        own = {"loss": sum(losses) / len(losses), "grad_norm": norm}
        if optimizer.scale.used:
            own |= {"loss_scale": optimizer.scale.value, "overflows": float(optimizer.scale.overflows)}
        means = {name: mean(values) for name, values in figures.items()}
        return means | {f"{prefix}{name}": value for name, value in own.items()}

    def _gradients(self, phase: Phase, batches: list[Batch], progress: float) -> dict[str, list[float]] | str:
        """The gradients of an update, and the figures of each micro-batch.

        Where memory ran out, why: then all but the gradients is to be restored.
        """
        config, optimizer = self.config, self.optimizers[phase.name]
        optimizer.begin(self.step, lr_scale(self.step, config, self.updates))
        figures: dict[str, list[float]] = {"loss": []}
        try:
            for micro, batch in enumerate(batches):
                for part, positions in self.room.cut(batch, self._positions(self.step, micro)):
                    torch.manual_seed(derive_seed(config.seed, positions[0]))  # for dropout inside the networks
                    part = on_device(part, self.task.device)
                    loss = self.task.loss(phase.name, part, Draws(config.seed, positions, stream=1), progress)
                    value = float(loss.value.detach())
                    if math.isfinite(value):
                        optimizer.backward(loss.value / (config.batch_size // len(positions)))
                    for name, figure in {"loss": value, **loss.metrics}.items():
                        figures.setdefault(name, []).append(figure)
            return figures
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if optimizer.norms:
                raise ended("when fused_backward had updated part of the weights", self.room.present) from error
            why = reason(error)
        optimizer.begin(self.step, 0.0)
        return why

    def _number(self, step: int, micro: int = 0) -> int:
        """Of a micro-batch among all of the run."""
        return step * self.config.grad_accum_steps + micro

    def _positions(self, step: int, micro: int) -> range:
        start = self._number(step, micro) * self.config.micro_batch
        return range(start, start + self.config.micro_batch)

    def _averaging(self) -> Mapping[str, Tensor]:
        """What is averaged: the weights, and the statistics that batch normalisation gathered with them."""
        return _merged(LazyTensors({name: own.read for name, own in self._weights().items()}), self._statistics())

    def _weights(self) -> dict[str, Weight]:
        return {name: weight for optimizer in self.optimizers.values() for name, weight in optimizer.weights.items()}

    def _statistics(self) -> dict[str, Tensor]:
        return {name: buffer for name, buffer in self._buffers().items() if buffer.is_floating_point()}

    def _buffers(self) -> dict[str, Tensor]:
        return {name: buffer for phase in self.task.phases for name, buffer in phase.buffers().items()}

    def _tensors(self) -> Mapping[str, Tensor]:
        """What every checkpoint of this run holds, beside what `_moments` gives."""
        return _merged(
            self._others(), LazyTensors({name: weight.stored for name, weight in self._stored_weights().items()})
        )

    def _others(self) -> Mapping[str, Tensor]:
        average = self.ema.average
        return _merged(
            LazyTensors({f"ema.{name}": partial(average.__getitem__, name) for name in average}),
            {f"buffer.{name}": tensor for name, tensor in self._buffers().items()},
            {f"task.{name}": tensor for name, tensor in self.task.extra_state().items()},
        )

    def _stored_weights(self) -> dict[str, Weight]:
        return {
            f"optimizer.{phase}.master.{name}": weight
            for phase, optimizer in self.optimizers.items()
            for name, weight in optimizer.weights.items()
        }

    def _moments(self) -> dict[str, Tensor]:
        """What a checkpoint holds once it has come about."""
        own = {
            f"optimizer.{phase}.{name}": tensor
            for phase, optimizer in self.optimizers.items()
            for name, tensor in optimizer.moments().items()
        }
        return own | self.room.state()

    @torch.no_grad()
    def _restore(self, checkpoint: Checkpoint) -> None:
        self._check(checkpoint)
        self.step, self.skipped = checkpoint.step, checkpoint.skipped
        self.room.load(checkpoint.tensors)
        self.task.feed.load_state(dict(checkpoint.place))
        for name, tensor in self._others().items():
            tensor.copy_(checkpoint.tensors[name])
        for name, weight in self._stored_weights().items():
            weight.load(checkpoint.tensors[name])
        for phase, optimizer in self.optimizers.items():
            optimizer.load_moments(_below(checkpoint, f"optimizer.{phase}."))

    def _check(self, checkpoint: Checkpoint) -> None:
        """Raise `InputError` for the checkpoint of another network."""
        own, stored = self._tensors(), checkpoint.tensors
        missing = [name for name, tensor in own.items() if name not in stored or stored[name].shape != tensor.shape]
        extra = [name for name in stored if name.startswith("ema.") and name not in own]
        if missing or extra:
            raise InputError(
                f"{self.folder.state_path} is of another network: {len(missing)} tensors are missing or of another "
                f"shape, {len(extra)} are too many (the first: {(missing + extra)[0]}). Start a new run with another "
                "experiment_id."
            )


def _say(line: str) -> None:
    """Beside the bar."""
    tqdm.write(line, file=sys.stderr)


def _merged(*mappings: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """All tensors of several mappings, none of them made before it is asked for."""
    return LazyTensors({name: partial(own.__getitem__, name) for own in mappings for name in own})


def _kept(tensors: Mapping[str, Tensor]) -> Callable[[], None]:
    """What brings tensors back to what they hold now."""
    kept = [tensor.clone() for tensor in tensors.values()]

    @torch.no_grad()
    def restore() -> None:
        for tensor, before in zip(tensors.values(), kept, strict=True):
            tensor.copy_(before)

    return restore


def _divide(phase: Phase) -> dict[str, Factor]:
    """Divide the streams of networks in float16; the factors of their parameters."""
    networks = {name: own for name, own in phase.modules.items() if isinstance(own, Trunk)}
    return {
        f"{name}.{own}": factor
        for name, network in networks.items()
        if network.dtype == torch.float16
        for own, factor in rescale.divide(network).items()
    }


def _below(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(prefix)}
