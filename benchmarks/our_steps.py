"""One measurement of our UNet trainer; run by train_step.py.

The step is that of `renalplan_train` itself: two rounds are trained, and the second is timed by the loss
function's first call and the round's end. For the network alone the same loop gets one batch again and again, for the loader alone there is no network.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from watching import Clock, GpuLoad, report, timed, wait_for

from renalplan.trainers.loader import Batches
from renalplan.trainers.loop import make_fabric
from renalplan.trainers.sampling import BatchSource
from renalplan.trainers.supervised import SupervisedStage
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.unet import UNet
from renalplan.training import train
from renalplan.workspace import Workspace

WARM_UP = 10  # batches, besides as many as are measured


class MeasuredError(Exception):
    """Ends a training when all is measured; holds what was found."""


@dataclass
class OneBatch:
    """A source that gives the same batch for every step, already on the network's device."""

    made: dict[str, Tensor]

    @property
    def halvable(self) -> bool:
        return True

    def begun(self, step: int) -> dict[str, Any]:
        return {}

    def finished(self, begun: dict[str, Any]) -> dict[str, Tensor]:
        return self.made

    def batch(self, step: int) -> dict[str, Tensor]:
        return self.made


class TimedStage(SupervisedStage):
    """Notes when the second round begins and ends."""

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        if step == self.iterations:
            wait_for(str(batch["image"].device))
            self.clock = Clock.now()
        return super().loss(network, batch, step)

    def validate(
        self, network: nn.Module, task: TrainingTask, device: torch.device
    ) -> dict[str, float]:
        if hasattr(self, "clock"):
            wait_for(str(device))
            raise MeasuredError(self.clock.until_now(self.iterations))
        return {}


class FixedStage(TimedStage):
    """Learns from one batch."""

    def training_batches(self, task: TrainingTask) -> BatchSource:
        device = make_fabric(task.hardware).device
        batch = super().training_batches(task).batch(0)
        return OneBatch({name: value.to(device) for name, value in batch.items()})


class LoaderStage(SupervisedStage):
    """Makes batches for its device and learns nothing."""

    def run(self, task: TrainingTask) -> None:
        device = make_fabric(task.hardware).device
        source = self.training_batches(task)
        batches = Batches(source, 0, workers=task.hardware.workers, device=device)
        try:
            for _ in range(WARM_UP + self.iterations):
                next(batches)
            found = timed(lambda: next(batches), self.iterations, str(device))
        finally:
            batches.close()
        raise MeasuredError(found)


class TimedUNet(UNet):
    """The UNet trainer as it is."""

    Stage = TimedStage


class NetworkAlone(UNet):
    """The network's steps, without a loader."""

    Stage = FixedStage


class LoaderAlone(UNet):
    """The loader, without a network."""

    Stage = LoaderStage


TRAINERS = {
    "step": "our_steps:TimedUNet",
    "network": "our_steps:NetworkAlone",
    "loader": "our_steps:LoaderAlone",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=sorted(TRAINERS), required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--configuration", required=True)
    parser.add_argument("--patch", type=int, nargs=3, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    load = GpuLoad(given.device)
    load.start()
    found = measure(given)
    given.out.write_text(json.dumps(report(found, load, given.device)))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step, and when the timed part began and ended; see `timed`."""
    from our_steps import MeasuredError  # the module the trainers are looked up in, not __main__

    settings = [
        "epochs=2", f"iterations={given.steps}", "validation_iterations=0",
        "patch_size=" + ",".join(map(str, given.patch)), f"batch_size={given.batch}",
    ]  # fmt: skip
    try:
        train(
            given.dataset, "all", TRAINERS[given.what], settings=settings, restart=True,
            configuration=given.configuration, name=f"measured_{given.what}", device=given.device,
            workers=given.workers, progress=False, workspace=Workspace.find(given.workspace),
        )  # fmt: skip
    except MeasuredError as found:
        return found.args[0]
    raise SystemExit("training ended before anything was measured")


if __name__ == "__main__":
    main()
