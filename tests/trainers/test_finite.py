"""Steps whose loss or gradient is no number are left out, kept, and not too many in a row."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from renalplan.errors import TrainingError
from renalplan.model_folder import FINISHED, WEIGHTS
from renalplan.trainers.finite import MOST_IN_A_ROW, MOST_KEPT, FiniteSteps
from renalplan.trainers.phase import Phase
from renalplan.trainers.supervised import SupervisedSettings, SupervisedStage
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.unet import UNet

SETTINGS = SupervisedSettings(epochs=2, iterations=3, validation_iterations=0)


class Exploding(SupervisedStage):
    """Its loss, or the gradient alone, is no number at some steps."""

    bad: range
    in_gradient: bool

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        loss = super().loss(network, batch, step)
        if step not in self.bad:
            return loss
        if self.in_gradient:  # sqrt's slope at 0 is infinite
            return loss + (loss - loss.detach()).abs().sqrt()
        return loss * torch.nan


def trainer(
    task: TrainingTask,
    bad: range,
    settings: SupervisedSettings = SETTINGS,
    *,
    in_gradient: bool = False,
) -> UNet:
    class Method(UNet):
        def phases(self) -> list[Phase]:
            stage = self.task.stages[0]
            phase = Exploding(stage.name, stage, self.network_of(stage), self.settings, seed=0)
            phase.bad, phase.in_gradient = bad, in_gradient
            return [phase]

    return Method(task, settings)


@pytest.mark.parametrize("in_gradient", [False, True])
def test_a_bad_step_teaches_nothing_and_its_batch_is_kept(
    make_task: Callable[..., TrainingTask], caplog: pytest.LogCaptureFixture, in_gradient: bool
) -> None:
    task = make_task()
    trainer(task, range(1, 2), in_gradient=in_gradient).run()
    folder = task.fold_folder / "whole"
    weights = load_file(folder / WEIGHTS)
    assert all(w.isfinite().all() for w in weights.values())
    kept = folder / "bad_steps" / "step_1.safetensors"
    what = "the gradient is" if in_gradient else "the loss is nan"
    assert f"phase whole, step 1: {what}" in caplog.text
    assert f"the step is left out, its batch is in {kept}" in caplog.text
    batch = load_file(kept)
    assert batch["image"].shape == (2, 1, *task.stages[0].patch_size)
    with safe_open(kept, "pt") as file:
        assert file.metadata()["step"] == "1"
        assert math.isnan(float(file.metadata()["loss"])) != in_gradient
    losses = pd.read_csv(folder / "log.csv")["loss"]
    assert losses.notna().all()


def test_only_the_bad_step_is_missing(make_task: Callable[..., TrainingTask]) -> None:
    """As if the optimizer had not been there at that step."""
    task = make_task()
    one = SupervisedSettings(epochs=1, iterations=2, validation_iterations=0, schedule="constant")
    trainer(task, range(1, 2), one).run()
    left_out = load_file(task.fold_folder / "whole" / WEIGHTS)
    task = make_task(fold_name="all")
    trainer(task, range(0), one.model_copy(update={"iterations": 1})).run()
    for name, value in load_file(task.fold_folder / "whole" / WEIGHTS).items():
        assert torch.equal(value, left_out[name]), name


def test_too_many_in_a_row_end_training_and_the_last_checkpoint_stays(
    make_task: Callable[..., TrainingTask],
) -> None:
    task = make_task()
    settings = SupervisedSettings(epochs=2, iterations=12, validation_iterations=0)
    with pytest.raises(
        TrainingError, match="the loss is nan at step 21 and at the 9 before it; lo"
    ):
        trainer(task, range(12, 99), settings).run()
    folder = task.fold_folder / "whole"
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert state["epoch"] == 1
    assert all(value.isfinite().all() for value in state["network"].values())
    assert not (folder / WEIGHTS).exists()
    assert not (task.fold_folder / FINISHED).exists()


def test_good_steps_between_bad_ones_are_enough(tmp_path: Path) -> None:
    steps = FiniteSteps("whole", tmp_path, scaled=False)
    good, bad, batch = torch.tensor(1.0), torch.tensor(torch.inf), {"image": torch.zeros(1)}
    for step in range(5 * MOST_IN_A_ROW):
        assert steps.take(step, good if step % 3 == 0 else bad, good, batch) == (step % 3 == 0)
    assert len(list((tmp_path / "bad_steps").iterdir())) == MOST_KEPT


def test_a_gradient_scaled_for_float16_may_overflow_but_the_loss_may_not(tmp_path: Path) -> None:
    steps = FiniteSteps("whole", tmp_path, scaled=True)
    one, much = torch.tensor(1.0), torch.tensor(torch.inf)
    assert steps.take(0, one, much, {})
    assert not steps.take(1, much, one, {"labels": [torch.zeros(2), torch.ones(2)], "ids": ["a"]})
    assert set(load_file(tmp_path / "bad_steps" / "step_1.safetensors")) == {"labels.0", "labels.1"}
