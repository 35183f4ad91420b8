"""Some steps of a network that are thrown away: how long one takes, and with how many data workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil
from typing import Any

import torch
from torch import Tensor

from renalplan.parallel import usable_cores
from renalplan.trainers.loader import Batches
from renalplan.trainers.loop import make_fabric, make_ready, step_seed, train_step
from renalplan.trainers.phase import TrainedNetwork
from renalplan.trainers.sampling import BatchSource
from renalplan.trainers.step import BatchGradient
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.timed import Pace

LEAST, MOST = 2, 50  # steps measured with each number of workers
WORTH_IT = 0.97  # more workers are taken if a step takes less than this share of what it took


def machine_of(task: TrainingTask, workers: int | None) -> str:
    """What a pace holds for: device, cores, and workers if somebody asked for a number of them."""
    asked = "" if workers is None else f", {workers} workers"
    return f"{task.hardware.device}, {usable_cores()} cores{asked}"


def measure(
    phase: TrainedNetwork,
    task: TrainingTask,
    seconds: float,
    workers: int | None,
    now: Callable[[], float] = time.monotonic,
) -> Pace:
    """Train a copy of a phase's network for some steps.

    Args:
        phase: What it needs of earlier phases must be there.
        task: Its hardware says how many workers are allowed.
        seconds: How long this may take; three steps it takes in any case.
        workers: The number of workers, if somebody asked for one; else the fastest is found.
        now: A clock, seconds.
    """
    probe = _Probe(phase, task, now)
    chosen, step_s = _choose_workers(probe, task.hardware.workers, seconds, workers)
    return Pace(
        machine=machine_of(task, workers),
        workers=chosen,
        step_s=step_s,
        window_s=probe.window(),
    )


def _choose_workers(
    probe: _Probe, most: int, seconds: float, asked: int | None
) -> tuple[int, float]:
    """How many data workers, and the seconds that a step takes with them."""
    if asked:
        return asked, sum(probe.steps(asked, seconds))
    begin = probe.now()
    batch_s, train_s = probe.steps(0, seconds / (2 if most and asked is None else 1))
    best = 0, batch_s + train_s
    for number in candidates(batch_s, train_s, most) if asked is None else ():
        left = seconds - (probe.now() - begin)
        if left < (LEAST + _warm_up(number)) * train_s:
            # no time to try: believe what one process took
            return best if best[0] else (number, max(train_s, batch_s / number))
        step_s = sum(probe.steps(number, left / 2))
        if step_s > WORTH_IT * best[1]:
            break
        best = number, step_s
    return best


def candidates(batch_s: float, train_s: float, most: int) -> list[int]:
    """Numbers of workers worth trying, fewest first.

    Args:
        batch_s: Seconds one process takes to prepare a batch.
        train_s: Seconds a step takes that has its batch.
        most: How many are allowed.
    """
    enough = max(1, ceil(batch_s / max(train_s, 1e-9)))  # if every worker had a core of its own
    return sorted({min(most, number) for number in (enough, 2 * enough, most)} - {0})


class _Probe:
    """A phase's network and batches, made ready as the loop does."""

    def __init__(self, phase: TrainedNetwork, task: TrainingTask, now: Callable[[], float]) -> None:
        phase.prepare(task)
        self.source: BatchSource = phase.training_batches(task)
        self.source.batch(0)  # what is missing is said here, and not by a worker
        self.phase, self.now = phase, now
        self.fabric = make_fabric(task.hardware)
        with self.fabric.init_module():
            torch.manual_seed(step_seed(phase, -1))
            network = phase.build()
        _, wrapped, self.optimizer = make_ready(self.fabric, network, phase.optimizer(network))
        self.network = wrapped
        self.gradient = BatchGradient(phase, self.fabric, wrapped, task.hardware.accumulate)
        self.batch: dict[str, Tensor] = {}

    def steps(self, workers: int, seconds: float) -> tuple[float, float]:
        """Seconds that a step waits for its batch, and that it takes then, with so many workers."""
        batches: Any = Batches(self.source, 0, workers=workers, device=self.fabric.device)
        warm_up = _warm_up(workers)
        waited = trained = 0.0
        self.network.train()
        begin = self.now()
        try:
            for step in range(warm_up + MOST):
                start = self.now()
                self.batch = next(batches)
                got = self.now()
                loss = train_step(self.gradient, self.optimizer, self.batch, step)
                assert loss is not None, "nobody judges it"
                loss.item()  # a GPU is waited for
                if step < warm_up:
                    continue
                waited, trained = waited + got - start, trained + self.now() - got
                measured = step + 1 - warm_up
                if measured >= LEAST and self.now() - begin > seconds:
                    break
        finally:
            batches.close()
        return waited / measured, trained / measured

    @torch.inference_mode()
    def window(self) -> float:
        """Seconds to predict one patch."""
        images = self.batch.get("image")
        if images is None:  # a method that learns from something else
            return 0.0
        patch = images[:1].to(self.fabric.device)
        self.network.eval()
        self.network(patch)
        begin = self.now()
        float(_first_tensor(self.network(patch)).sum())
        return self.now() - begin


def _warm_up(workers: int) -> int:
    """Steps not to be measured: what workers prepare before anybody asks makes them look fast."""
    return 1 + 3 * workers


def _first_tensor(outputs: Any) -> Tensor:
    """A network may give several outputs, such as one a resolution."""
    while not isinstance(outputs, Tensor):
        outputs = outputs[0]
    return outputs
