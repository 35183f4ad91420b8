"""The training loop, once for every trained network of every trainer."""

from __future__ import annotations

import logging
import time
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from renalplan.errors import UsageError
from renalplan.model_folder import WEIGHTS
from renalplan.networks.layout import to_channels_last
from renalplan.trainers import ranks
from renalplan.trainers.checkpoint import (
    CHECKPOINT,
    TrainingState,
    load_checkpoint,
    save_checkpoint,
)
from renalplan.trainers.divisible import check_network
from renalplan.trainers.finite import FiniteSteps
from renalplan.trainers.fused import use_fused
from renalplan.trainers.loader import Batches
from renalplan.trainers.logbook import Logbook
from renalplan.trainers.parts import only, share
from renalplan.trainers.phase import TrainedNetwork, save_weights
from renalplan.trainers.replicas import accelerator, build_fabric
from renalplan.trainers.sampling import BatchSource
from renalplan.trainers.schedules import Schedule, schedule_of
from renalplan.trainers.step import BatchGradient
from renalplan.trainers.step_memory import say_memory
from renalplan.trainers.task import Hardware, TrainingTask

logger = logging.getLogger(__name__)

PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def make_fabric(hardware: Hardware) -> Fabric:
    """Devices and precision, see `choose_precision`."""
    return build_fabric(hardware, PRECISIONS[choose_precision(hardware)])


def choose_precision(hardware: Hardware) -> str:
    """fp32, bf16 or fp16; `auto` is bf16 or fp16 autocast on a GPU, float32 on the CPU.

    Raises:
        UsageError: half precision on a CPU. PyTorch 2.13 knows no float16 there, and its bfloat16
            weight gradient of a 3-D convolution reads memory it has not written for maps two
            voxels deep: about 1e30 now and then, and no training to trust.
    """
    kind = accelerator(hardware)
    if hardware.precision in ("fp16", "bf16") and kind == "cpu":
        raise UsageError(
            f"--precision {hardware.precision} needs a GPU: on a CPU half-precision gradients are "
            "wrong for some sizes; use fp32."
        )
    if hardware.precision != "auto":
        return hardware.precision
    half = "bf16" if kind == "cuda" and torch.cuda.is_bf16_supported() else "fp16"
    return half if kind == "cuda" else "fp32"


def fit(phase: TrainedNetwork, task: TrainingTask) -> None:
    """Train a phase's network to its end, from its last checkpoint if there is one.

    Everything random is a function of the phase's seed and the step, so on the CPU an interrupted
    and an uninterrupted run give bit-equal weights. Under a budget the number of steps is the clock's.
    Where several processes train together each works on its share of every batch; the first alone
    writes, and validates while they wait.

    Raises:
        TrainingError: loss or gradient are no numbers in too many steps in a row.
        UsageError: the task's budget is too small.
    """
    folder = phase.folder(task)
    folder.mkdir(parents=True, exist_ok=True)
    schedule = schedule_of(phase, task)
    fabric = make_fabric(task.hardware)
    network, optimizer, base_rates, state = _begun(phase, task, folder, fabric)
    network, wrapped, wrapped_optimizer = make_ready(fabric, network, optimizer)
    ranks.same_start(network)
    gradient = BatchGradient(phase, fabric, wrapped, task.hardware.accumulate)
    first, done = (state.epoch, state.steps(phase.iterations)) if state else (0, 0)
    if first:
        logger.info(
            "fold %s %s: continues after epoch %d of %s",
            task.fold_name,
            phase.name,
            first,
            schedule.length,
        )
    log = Logbook(folder, list(state.rows) if state else []) if ranks.leads() else None
    source = _own_share(phase, phase.training_batches(task))
    if ranks.leads() and fabric.device.type == "cuda":
        half = choose_precision(task.hardware) != "fp32"
        say_memory(phase, source.batch(0), fabric.device, half=half, parts=gradient.parts)

    def finish_epoch(row: dict[str, float], start: float, show: _ProgressBar) -> None:
        assert log is not None, "the first rank has one"
        wrapped.eval()
        with torch.inference_mode():
            figures = schedule.look(lambda: phase.validate(wrapped, task, fabric.device))
        row |= {"seconds": round(time.monotonic() - start, 3), **figures}
        log.add(row)
        show.finish_epoch(row)
        weights, state = network.state_dict(), optimizer.state_dict()
        epochs = int(row["epoch"]) + 1
        save_checkpoint(folder, TrainingState(weights, state, epochs, log.rows, schedule.done))

    finite = FiniteSteps(phase.name, folder, scaled=choose_precision(task.hardware) == "fp16")
    batches = Batches(source, done, workers=schedule.workers, device=fabric.device)
    try:
        with _ProgressBar(phase, task, schedule, done) as show:
            for epoch in schedule.epochs(first, done):
                start = time.monotonic()
                row = _train_epoch(
                    gradient,
                    wrapped_optimizer,
                    batches,
                    schedule,
                    epoch,
                    base_rates,
                    finite,
                    show,
                )
                ranks.lead_alone(partial(finish_epoch, row, start, show))
                schedule.finish_epoch(network)
    finally:
        batches.close()
        if log is not None:
            log.close()
    if ranks.leads():
        save_weights(folder / WEIGHTS, network)
        (folder / CHECKPOINT).unlink(missing_ok=True)


def _begun(
    phase: TrainedNetwork, task: TrainingTask, folder: Path, fabric: Fabric
) -> tuple[nn.Module, torch.optim.Optimizer, list[float], TrainingState | None]:
    """A network, its optimizer and learning rates, and the checkpoint they go on from."""
    with fabric.init_module():
        torch.manual_seed(step_seed(phase, -1))
        network = phase.build()
    check_network(network, phase.name, ranks.world() * (task.hardware.accumulate or 1))
    phase.initialise(network)
    optimizer = phase.optimizer(network)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    state = load_checkpoint(folder)
    if state is not None:
        network.load_state_dict(state.network)
        optimizer.load_state_dict(state.optimizer)
    return network, optimizer, base_rates, state


def _train_epoch(
    gradient: BatchGradient,
    optimizer: Any,
    batches: Batches,
    schedule: Schedule,
    epoch: int,
    base_rates: list[float],
    finite: FiniteSteps,
    show: _ProgressBar,
) -> dict[str, float]:
    gradient.network.train()
    total, taken, rate = 0.0, 0, 0.0
    for step, rate in schedule.steps(epoch):
        for group, base in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = base * rate
        loss = train_step(gradient, optimizer, next(batches), step, finite)
        if loss is None:
            continue
        value = loss.item()
        total, taken = total + value, taken + 1
        show.step(value)
    return {
        "epoch": epoch,
        "loss": total / taken if taken else nan,
        "learning_rate": base_rates[0] * rate,
    }


def make_ready(
    fabric: Fabric, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, Any, Any]:
    """The network as it is trained, and network and optimizer as Fabric wraps them."""
    # 1.5 times faster on CPUs (oneDNN's kernels), and what tensor cores want on GPUs
    network = to_channels_last(network)
    wrapped = fabric.setup(network, optimizer)
    use_fused(optimizer, fabric.device)
    return network, *wrapped


def train_step(
    gradient: BatchGradient,
    optimizer: Any,
    batch: dict[str, Tensor],
    step: int,
    finite: FiniteSteps | None = None,
) -> Tensor | None:
    """One step; returns its loss, on the device, or None if it was left out.

    Raises:
        TrainingError: see `FiniteSteps`.
    """
    phase = gradient.phase
    loss = gradient(batch, step, step_seed(phase, step))
    norm = gradient.fabric.clip_gradients(
        gradient.network, optimizer, max_norm=phase.gradient_clip, error_if_nonfinite=False
    )
    taken = finite is None or finite.take(step, loss, norm, batch)
    # a float16 scaler must see what it scaled; it leaves such a step out itself
    if taken or (finite is not None and finite.scaled):
        optimizer.step()
    return loss if taken else None


def step_seed(phase: TrainedNetwork, step: int) -> int:
    """Seed of torch's generator for one step of one phase; step -1 draws the initial weights."""
    total = step + 1 + phase.seed * 1_000_000_007
    for character in phase.name:
        total = (total * 1_000_003 + ord(character)) % 2**62
    return total


def _own_share(phase: TrainedNetwork, source: BatchSource) -> BatchSource:
    """A source of the samples of each batch that this rank works on."""
    if ranks.world() == 1:
        return source
    assert phase.batch_size is not None, "see divisible.check_phases"
    return only(source, share(phase.batch_size, ranks.rank(), ranks.world()), phase.whole)


class _ProgressBar:
    """Epochs and steps with the time left, loss and pseudo Dice."""

    def __init__(
        self, phase: TrainedNetwork, task: TrainingTask, schedule: Schedule, done: int
    ) -> None:
        console = Console(stderr=True)
        # a bar in a log file appears only when the phase is over
        wanted = task.hardware.progress and ranks.leads()
        self.lines = wanted and not console.is_terminal
        self.head = f"fold {task.fold_name} {phase.name}"
        self.schedule = schedule
        self.bar = Progress(
            TextColumn("fold {task.fields[fold]} [bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, left:"),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]} {task.fields[dice]} {task.fields[remark]}"),
            console=console,
            disable=self.lines or not wanted,
        )
        self.line = self.bar.add_task(
            phase.name,
            total=schedule.steps_in_all,
            completed=done,
            fold=task.fold_name,
            loss="…",
            dice="",
            remark=schedule.remark,
        )

    def __enter__(self) -> _ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, loss: float) -> None:
        self.bar.update(self.line, advance=1, loss=f"{loss:.3f}")

    def finish_epoch(self, row: dict[str, float]) -> None:
        dice = [f"{v:.2f}" for k, v in row.items() if k.startswith("dice")]
        text = f"Dice {' '.join(dice)}" if dice else ""
        remark = self.schedule.remark
        self.bar.update(self.line, dice=text, remark=remark, total=self.schedule.steps_in_all)
        if self.lines:
            done = f"epoch {row['epoch'] + 1:g} of {self.schedule.length}"
            took = f"{row['seconds']:.0f} s" + (f"; {remark}" if remark else "")
            logger.info("%s: %s, loss %.3f %s (%s)", self.head, done, row["loss"], text, took)
