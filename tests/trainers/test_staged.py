"""The plan's stages in order: their phases, the last one's patch, and what prediction is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from renalplan.errors import UsageError
from renalplan.geometry import Grid
from renalplan.images import Volume
from renalplan.inference.options import InferenceOptions
from renalplan.inference.segmenters.staged import StagedSegmenter
from renalplan.model_folder import ModelFolder
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.trainers.loop import step_seed
from renalplan.trainers.phase import NetworkPhase, Phase, TrainedNetwork
from renalplan.trainers.sampling import PatchSource
from renalplan.trainers.settings import parse_settings
from renalplan.trainers.staged import StagedTrainer
from renalplan.trainers.supervised import SupervisedSettings, SupervisedStage
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.trainer import open_or_create
from renalplan.trainers.unet import UNet

Make = Callable[..., TrainingTask]
SHORT = ["epochs=1", "iterations=1", "validation_iterations=0"]


class Pooled(StagedTrainer):
    """Some method with a network of its own, which pools along y and x alone."""

    divisor: ClassVar[tuple[int, int, int] | None] = (1, 8, 8)

    def learn(self, stage: StagePlan) -> list[Phase]:
        network = NetworkSpec(factory="renalplan.networks.unet:UNet")
        return [
            SupervisedStage(f"{stage.name}_first", stage, network, self.settings, self.seed),
            SupervisedStage(stage.name, stage, network, self.settings, self.seed),
        ]


def _trainer(kind: type[StagedTrainer], task: TrainingTask, *settings: str) -> StagedTrainer:
    return kind(task, parse_settings(SupervisedSettings, list(settings)))


@pytest.mark.parametrize(
    ("configuration", "names"),
    [
        ("whole", ["whole_first", "whole"]),
        ("locate_fine", ["locate_first", "locate", "fine_first", "fine"]),
        (
            "cascade",
            ["lowres_first", "lowres", "before_fullres", "fullres_first", "fullres"],
        ),
    ],
)
def test_phases_come_stage_by_stage(make_task: Make, configuration: str, names: list[str]) -> None:
    trainer = _trainer(Pooled, make_task(configuration))
    assert [phase.name for phase in trainer.phases()] == names
    assert [trainer.is_last(stage) for stage in trainer.stages] == [
        stage is trainer.stages[-1] for stage in trainer.stages
    ]
    # what predicts a stage is the phase of its name
    stages = {stage.name: stage.name for stage in trainer.stages}
    assert trainer.segmenter().arguments == {"stages": stages}


@pytest.mark.parametrize("configuration", ["whole", "locate_fine", "cascade"])
def test_the_patch_size_asked_for_is_the_last_stages(make_task: Make, configuration: str) -> None:
    task = make_task(configuration)
    trainer = _trainer(UNet, task, "patch_size=8,16,12", "batch_size=1")
    trainer.check()
    *earlier, last = trainer.stages
    assert tuple(earlier) == task.stages[:-1]
    assert last == task.stages[-1].model_copy(update={"patch_size": (8, 16, 12)})
    *_, phase = trainer.phases()
    assert isinstance(phase, SupervisedStage)
    source = phase.training_batches(task)
    assert isinstance(source, PatchSource)
    assert source.patch == (8, 16, 12)
    held_out = phase.held_out_batches(task)
    assert isinstance(held_out, PatchSource)
    assert held_out.patch == (8, 16, 12)
    assert trainer.segmenter().arguments["patch_sizes"] == {last.name: [8, 16, 12]}


def test_the_plans_own_patch_size_is_not_worth_a_mention(make_task: Make) -> None:
    trainer = _trainer(UNet, make_task("locate_fine"), "patch_size=8x8x8")
    assert "patch_sizes" not in trainer.segmenter().arguments


def test_the_plans_network_stays_as_planned_with_another_patch(make_task: Make) -> None:
    plain, other = (
        _trainer(UNet, make_task(), *given).record("UNet").networks
        for given in ([], ["patch_size=8,16,16"])
    )
    assert plain == other


@pytest.mark.parametrize("size", ["7,8,8", "8,8,9", "1,8,8"])
def test_a_patch_the_plans_network_cannot_take_is_refused(make_task: Make, size: str) -> None:
    trainer = _trainer(UNet, make_task(), f"patch_size={size}")
    with pytest.raises(UsageError, match=r"--set patch_size: .*multiples of \(2, 2, 2\); the near"):
        trainer.check()
    with pytest.raises(UsageError):
        trainer.phases()  # nor without the check


def test_a_patch_that_cannot_be_pooled_is_refused_with_the_nearest(make_task: Make) -> None:
    with pytest.raises(UsageError, match=r"Pooled: the patch of stage whole .*second 20") as caught:
        _trainer(Pooled, make_task(), "patch_size=3,20,24").check()
    assert "nearest 16 or 24" in str(caught.value)
    assert "for example --set patch_size=3,16,24." in str(caught.value)
    assert "third" not in str(caught.value)
    _trainer(Pooled, make_task(), "patch_size=3,16,24").check()  # odd along z: never pooled


def test_a_planned_patch_that_cannot_be_pooled_is_refused_too(make_task: Make) -> None:
    task = make_task()
    stage = task.stages[0].model_copy(update={"patch_size": (8, 12, 8)})
    odd = replace(task, plan=task.plan.model_copy(update={"stages": (stage,)}))
    with pytest.raises(UsageError, match=r"second 12 \(nearest 8 or 16\).*--set patch_size"):
        _trainer(Pooled, odd).check()
    _trainer(Pooled, odd, "patch_size=8,16,8").check()


def test_a_trainer_with_its_own_network_may_break_the_plans_strides(make_task: Make) -> None:
    """The plan's U-Net halves every axis; a method that does not use it does not care."""
    _trainer(Pooled, make_task(), "patch_size=5,8,8").check()


def test_prediction_uses_the_patch_it_was_trained_with(make_task: Make) -> None:
    task = make_task()
    trainer = _trainer(UNet, task, "patch_size=8,16,12", "batch_size=1", *SHORT)
    model = open_or_create(task.model.path, trainer, "UNet")
    trainer.run()
    arguments = ModelFolder.open(model.path).record.segmenter.arguments  # through JSON
    segmenter = StagedSegmenter(
        model, ["0"], InferenceOptions(device="cpu", engine="torch", precision="fp32"), **arguments
    )
    windows = set()
    network = model.load_network("whole", "0")
    segmenter.networks.use("whole", [network])
    network.register_forward_pre_hook(lambda _, given: windows.add(tuple(given[0].shape[1:])))
    straight = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    grid = Grid(size=(24, 24, 20), spacing=(2, 2, 2), origin=(0, 0, 0), direction=straight)
    array = np.full((1, 20, 24, 24), 100, np.float32)
    volume = Volume(array=array, spacing=(2.0, 2.0, 2.0), grid=grid)
    segmenter.segment(volume)
    assert windows == {(1, 8, 16, 12)}


def test_every_network_phase_is_in_the_record(make_task: Make) -> None:
    trainer = _trainer(Pooled, make_task("cascade"))
    networks = trainer.record("Pooled").networks
    assert list(networks) == [p.name for p in trainer.phases() if isinstance(p, NetworkPhase)]


def test_the_seed_reaches_every_phase_and_its_initial_weights(make_task: Make) -> None:
    def first_draw(trainer: StagedTrainer, number: int) -> float:
        phase = trainer.phases()[number]
        assert isinstance(phase, TrainedNetwork)
        torch.manual_seed(step_seed(phase, -1))
        return float(torch.rand(()))

    task = make_task("locate_fine")
    trainers = [UNet(task, UNet.Settings(seed=seed)) for seed in (0, 1, 1)]
    for number in range(2):
        zero, one, again = (first_draw(trainer, number) for trainer in trainers)
        assert zero != one == again
