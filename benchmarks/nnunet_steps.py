"""One measurement of nnU-Net's trainer; run by train_step.py with nnU-Net's own Python."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from watching import GpuLoad, report, timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=("step", "loader", "network"), required=True)
    parser.add_argument("--plans", type=Path, required=True)
    parser.add_argument("--dataset_json", type=Path, required=True)
    parser.add_argument("--configuration", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.backends.cudnn.benchmark = True  # as its training command sets it
    load = GpuLoad(given.device)
    load.start()
    trainer = make_trainer(given)
    try:
        step = step_of(trainer, given.what)
        for _ in range(given.steps):
            step()
        found = timed(step, given.steps, given.device)
    finally:
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            if hasattr(loader, "_finish"):
                loader._finish()
    given.out.write_text(json.dumps(report(found, load, given.device)))


def make_trainer(given: argparse.Namespace) -> Any:
    """Its trainer on all cases, as far as before the first step."""
    plans = json.loads(given.plans.read_text()) | {"continue_training": False}
    dataset = json.loads(given.dataset_json.read_text())
    device = torch.device(given.device)
    trainer = nnUNetTrainer(plans, given.configuration, "all", dataset, device=device)
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    return trainer


def step_of(trainer: Any, what: str) -> Callable[[], object]:
    """What is repeated."""
    if what == "loader":
        return lambda: next(trainer.dataloader_train)
    if what == "step":
        return lambda: trainer.train_step(next(trainer.dataloader_train))
    batch = next(trainer.dataloader_train)
    batch["data"] = batch["data"].to(trainer.device)
    batch["target"] = [target.to(trainer.device) for target in batch["target"]]
    return lambda: trainer.train_step(batch)


if __name__ == "__main__":
    main()
