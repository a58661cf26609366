"""The one training loop: accumulation, clipping, the finite check, averages, checkpoints, metrics and previews."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from littlecascade.data.order import EpochOrder, derive_seed
from littlecascade.training.config import RunConfig
from littlecascade.training.draws import Draws
from littlecascade.training.ema import Ema
from littlecascade.training.optim import MasterOptimizer, lr_scale
from littlecascade.training.report import write_report
from littlecascade.training.runstate import Checkpoint, RunFolder
from littlecascade.training.task import Batch, Phase, Task

LOG_EVERY = 10


class Trainer:
    """Runs a task to its last update, or until told to stop; the same call goes on where the last one ended.

    All random choices of update n derive from (seed, n), so there is no generator state to keep and a run that was killed
    ends with the same weights, bit for bit, as one that was not.
    """

    def __init__(self, task: Task, config: RunConfig, folder: RunFolder) -> None:
        self.task, self.config, self.folder = task, config, folder
        self.step = self.skipped = 0
        self.order = EpochOrder(task.count, config.seed)
        self.optimizers = {phase.name: MasterOptimizer(_parameters(phase), config) for phase in task.phases}
        self.ema = Ema(self._weights(), beta=config.ema_beta, every=config.ema_iters, start=config.ema_start_iters)
        checkpoint = folder.load()
        if checkpoint is not None:
            self._restore(checkpoint)

    def run(self, max_minutes: float | None = None) -> bool:
        """Train. True when the last update is done, False when the time was up first."""
        deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
        config, log = self.config, _Log(self.folder)
        bar = tqdm(total=config.updates, initial=self.step, desc=config.experiment_id, disable=None, unit="step")
        with bar, ThreadPoolExecutor(1) as pool, _deferred_interrupt() as interrupted:
            upcoming = pool.submit(self._fetch, self.step)
            while self.step < config.updates and time.monotonic() < deadline and not interrupted.is_set():
                upcoming = self._update(upcoming, pool, log)
                bar.update()
                bar.set_postfix(log.latest, refresh=False)
                if self.step % config.save_every == 0:
                    backup = config.backup_every is not None and self.step % config.backup_every == 0
                    self.save(backup=backup)
                if self.step % (config.preview_every or config.save_every) == 0:
                    self.preview()
        self.save()
        if self.step < config.updates:
            return False
        with self.averaged():
            self.task.export(self.folder.export_folder)
        self.preview()
        return True

    def save(self, *, backup: bool = False) -> None:
        """Write a checkpoint of this moment."""
        tensors = {f"ema.{name}": tensor for name, tensor in self.ema.average.items()}
        tensors |= {f"buffer.{name}": tensor for name, tensor in self._buffers().items()}
        tensors |= {f"task.{name}": tensor for name, tensor in self.task.extra_state().items()}
        for phase, optimizer in self.optimizers.items():
            tensors |= {f"optimizer.{phase}.{name}": tensor for name, tensor in optimizer.state_tensors().items()}
        self.folder.save(Checkpoint(self.step, self.skipped, tensors), backup=backup)

    def preview(self) -> None:
        """Draw the task's preview with the averaged weights, and renew the report."""
        modes = {module: module.training for phase in self.task.phases for module in phase.modules.values()}
        with self.averaged(), torch.no_grad():
            for module in modes:
                module.eval()
            image = self.task.preview()
        for module, training in modes.items():
            module.train(training)
        if image is not None:
            image.save(self.folder.folder / f"preview-{self.step:06d}.png")
        write_report(self.folder, self.config)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within: the modules hold the averaged weights."""
        parameters = self._parameters()
        with torch.no_grad():
            weights = {name: parameter.clone() for name, parameter in parameters.items()}
            for name, parameter in parameters.items():
                parameter.copy_(self.ema.average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(weights[name])

    def _update(self, upcoming: Future[list[Batch]], pool: ThreadPoolExecutor, log: _Log) -> Future[list[Batch]]:
        start = time.perf_counter()
        batches = upcoming.result()
        waited = time.perf_counter() - start
        upcoming = pool.submit(self._fetch, self.step + 1)
        progress = self.step / self.config.updates
        figures: dict[str, float] = {"lr": self.config.lr * lr_scale(self.step, self.config, progress)}
        for phase in self.task.phases:
            if progress >= phase.start:
                figures |= self._train_phase(phase, batches, progress)
        self.step += 1
        self.ema.update(self._weights(), self.step)
        seconds = time.perf_counter() - start
        figures |= {"seconds": seconds, "wait": waited / seconds, "skipped": float(self.skipped)}
        log.add(self.step, figures)
        return upcoming

    def _train_phase(self, phase: Phase, batches: list[Batch], progress: float) -> dict[str, float]:
        optimizer = self.optimizers[phase.name]
        optimizer.zero_grad()
        figures: dict[str, float] = {}
        total = 0.0
        for micro, batch in enumerate(batches):
            positions = self._positions(self.step, micro)
            torch.manual_seed(derive_seed(self.config.seed, positions[0]))  # for dropout inside the networks
            loss = self.task.loss(phase.name, batch, Draws(self.config.seed, positions, stream=1), progress)
            (loss.value / len(batches)).backward()
            total += float(loss.value.detach()) / len(batches)
            for name, value in loss.metrics.items():
                figures[name] = figures.get(name, 0.0) + value / len(batches)
        norm = optimizer.step(lr_scale(self.step, self.config, progress)) if math.isfinite(total) else math.nan
        if not math.isfinite(norm):
            self.skipped += 1
        prefix = "" if len(self.task.phases) == 1 else f"{phase.name}_"
        return figures | {f"{prefix}loss": total, f"{prefix}grad_norm": norm}

    def _fetch(self, step: int) -> list[Batch]:
        """The micro-batches of an update; runs in a thread while the one before is computed."""
        batches: list[Batch] = []
        for micro in range(self.config.grad_accum_steps):
            positions = self._positions(step, micro)
            indices = [self.order[position] for position in positions]
            batches.append(self.task.fetch(indices, Draws(self.config.seed, positions)))
        return batches

    def _positions(self, step: int, micro: int) -> range:
        start = (step * self.config.grad_accum_steps + micro) * self.config.micro_batch
        return range(start, start + self.config.micro_batch)

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: parameter for phase in self.task.phases for name, parameter in _parameters(phase).items()}

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor for optimizer in self.optimizers.values() for name, tensor in optimizer.masters.items()}

    def _buffers(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": buffer
            for phase in self.task.phases
            for name, module in phase.modules.items()
            for key, buffer in module.named_buffers()
        }

    @torch.no_grad()
    def _restore(self, checkpoint: Checkpoint) -> None:
        self.step, self.skipped = checkpoint.step, checkpoint.skipped
        for phase, optimizer in self.optimizers.items():
            optimizer.load_state_tensors(_below(checkpoint, f"optimizer.{phase}."))
        for name, tensor in _below(checkpoint, "ema.").items():
            self.ema.average[name].copy_(tensor)
        for name, buffer in self._buffers().items():
            buffer.copy_(checkpoint.tensors[f"buffer.{name}"])
        self.task.load_extra_state(_below(checkpoint, "task."))


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Within: Ctrl-C or a polite kill sets the event, so that the update under way is finished; a second one raises."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Log:
    """Averages the figures of a few updates into one row of the metrics."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self.latest: dict[str, str] = {}

    def add(self, step: int, figures: dict[str, float]) -> None:
        self.rows.append(figures)
        if step % LOG_EVERY == 0:
            names = dict.fromkeys(name for row in self.rows for name in row)
            means = {name: _mean([row[name] for row in self.rows if name in row]) for name in names}
            self.folder.log({"step": step, **means})
            self.latest = {name: f"{value:.4g}" for name, value in means.items() if value is not None and "loss" in name}
            self.rows.clear()


def _mean(values: list[float]) -> float | None:
    """The mean of the finite values; None (null in JSON) if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _parameters(phase: Phase) -> dict[str, nn.Parameter]:
    return {
        f"{name}.{key}": parameter
        for name, module in phase.modules.items()
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _below(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(prefix)}
