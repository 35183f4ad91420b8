"""The coarse-to-fine trainer: its phases, sizes and settings, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch

from renalplan.dataset import DatasetDescription
from renalplan.errors import UsageError
from renalplan.kidneys import PAPER_SPACING, THRESHOLD_ML
from renalplan.model_folder import build_network
from renalplan.plan import StagePlan
from renalplan.trainers.coarse_to_fine import CoarseToFine, CoarseToFineSettings, halvings
from renalplan.trainers.losses import CrossEntropy, Dice
from renalplan.trainers.phase import ComputePhase, NetworkPhase
from renalplan.trainers.settings import parse_settings
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.window_stage import WindowStage
from renalplan.trainers.windows import DenseSource, TumorSliceSource

Make = Callable[..., TrainingTask]
SMALL = [
    "widths=4,8", "coarse_pixels=16", "fine_mm=16", "correction_mm=16,16", "threshold_ml=0.5",
    "batch_size=2", "tumor_3d.widths=4,8", "tumor_3d.patch_mm=16,16,16", "tumor_3d.batch_size=3",
    "epochs=1", "iterations=1", "validation_iterations=1", "tumor_3d.epochs=1",
    "tumor_3d.iterations=1", "tumor_3d.validation_iterations=1",
]  # fmt: skip


def _trainer(task: TrainingTask, *settings: str) -> CoarseToFine:
    return CoarseToFine(task, parse_settings(CoarseToFineSettings, list(settings)))


def _at(task: TrainingTask, **values: Any) -> TrainingTask:
    """The task with its grid changed."""
    plan = task.plan
    grid = plan.stage("whole").model_copy(update=values)
    stages = tuple(grid if stage.name == "whole" else stage for stage in plan.stages)
    object.__setattr__(task, "plan", plan.model_copy(update={"stages": stages}))
    return task


def _phases(trainer: CoarseToFine) -> dict[str, WindowStage]:
    return {p.name: p for p in trainer.phases() if isinstance(p, WindowStage)}


def test_the_papers_sizes_and_networks_at_its_spacing(make_task: Make) -> None:
    trainer = _trainer(_at(make_task(), spacing=PAPER_SPACING))
    trainer.check()
    phases = trainer.phases()
    assert [p.name for p in phases] == [
        "anatomy", "coarse", "correction", "fine", "tumor_3d", "tumor_2d",
    ]  # fmt: skip
    assert isinstance(phases[0], ComputePhase)
    patches = {name: phase.stage.patch_size for name, phase in _phases(trainer).items()}
    assert patches == {
        "coarse": (1, 128, 128),
        "correction": (1, 64, 256),
        "fine": (1, 160, 160),
        "tumor_3d": (32, 96, 96),
        "tumor_2d": (1, 160, 160),
    }
    for name, phase in _phases(trainer).items():
        arguments = phase.network.arguments
        assert arguments["in_channels"] == (2 if name == "tumor_2d" else 1)
        assert arguments["heads"] == 2
        widths = [32, 64, 128] if name == "tumor_3d" else [64, 128, 256, 512, 1024]
        assert arguments["features"] == widths
        assert phase.settings.loss.name == ("ce" if name == "tumor_3d" else "dice")
    with torch.device("meta"):
        network = build_network(_phases(trainer)["coarse"].network, "here")
    # Ronneberger's 31.03 M, and a scale and an offset for each map that is normalised
    parameters = sum(p.numel() for p in network.parameters())
    norms = sum(p.numel() for n, p in network.named_parameters() if p.dim() == 1 and ".1." in n)
    assert parameters - norms == pytest.approx(31.03e6, rel=1e-3)


def test_sizes_in_mm_keep_the_anatomy_at_another_spacing(make_task: Make) -> None:
    trainer = _trainer(_at(make_task(), spacing=(5.0, 1.5, 1.5)), "widths=8,16,32")
    assert trainer.sagittal_window == (1, 40, 132)  # 200 and 198 mm, multiples of 4
    assert trainer.axial_window == (1, 84, 84)  # 126 mm
    assert trainer.patch_3d == (20, 48, 48)  # 100 and 72 mm; z is halved once, y and x twice


def test_tiny_windows_keep_more_than_one_value_at_the_coarsest_resolution(make_task: Make) -> None:
    trainer = _trainer(make_task(), "widths=4,8,8", "fine_mm=1", "correction_mm=1,1")
    assert trainer.axial_window == (1, 8, 8)
    network = build_network(_phases(trainer)["fine"].network, "here").train()
    network(torch.rand(1, 1, *trainer.axial_window))


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        (PAPER_SPACING, [(1, 2, 2), (2, 2, 2), (2, 2, 2)]),
        ((1.0, 1.0, 1.0), [(2, 2, 2)] * 3),
        ((6.0, 0.7, 0.7), [(1, 2, 2), (1, 2, 2), (1, 2, 2)]),
        ((1.0, 2.0, 2.0), [(2, 1, 1), (2, 2, 2), (2, 2, 2)]),
    ],
)
def test_axes_are_halved_when_they_are_about_as_fine(
    spacing: tuple[float, float, float], expected: list
) -> None:
    assert halvings(spacing, 3) == expected


def test_without_correction_there_is_no_phase_for_it_and_the_segmenter_knows(
    make_task: Make,
) -> None:
    trainer = _trainer(make_task(), "correction=false")
    assert "correction" not in _phases(trainer)
    assert trainer.segmenter().arguments["correction"] is False
    with_it = _trainer(make_task())
    assert with_it.segmenter().arguments == {
        "kidney": "kidney",
        "tumor": "tumour",
        "coarse_pixels": 128,
        "sagittal_window": [1, 96, 96],
        "axial_window": [1, 64, 64],
        "patch_3d": [48, 36, 36],
        "threshold_ml": THRESHOLD_ML,
        "padding_mm": 25.0,
        "correction": True,
    }
    # every other network is the same, so that the two can be compared
    names = set(_phases(trainer))
    record, other = (t.record("x").networks for t in (trainer, with_it))
    assert names == set(record)
    assert all(record[name] == other[name] for name in names)


def test_every_phase_learns_from_the_training_cases_alone_and_looks_at_held_out_ones_after(
    make_task: Make, opened: set[str]
) -> None:
    task = make_task()
    trainer = _trainer(task, *SMALL)
    trainer.check()
    for phase in trainer.phases():
        if isinstance(phase, NetworkPhase):
            assert isinstance(phase, WindowStage)
            phase.prepare(task)
            batch = phase.training_batches(task).batch(0)
            size = phase.settings.batch_size
            channels = 2 if phase.name == "tumor_2d" else 1
            assert batch["image"].shape == (size, channels, *phase.stage.patch_size)
            assert batch["labels"].shape == (size, 1, *phase.stage.patch_size)
            assert set(batch["labels"].unique().tolist()) <= {0, 1}
            loss = phase.loss(phase.build(), batch, 0)
            assert torch.isfinite(loss)
        else:
            phase.run(task)
    assert opened
    assert not [name for name in opened if name.startswith("whole/case_c")]
    for phase in _phases(trainer).values():
        figures = phase.validate(phase.build().eval(), task, torch.device("cpu"))
        what = "tumor" if phase.name.startswith("tumor") else "kidney"
        assert list(figures) == [f"dice_{what}"]
        assert 0 <= figures[f"dice_{what}"] <= 1
    assert [name for name in opened if name.startswith("whole/case_c")]


def test_losses_are_what_the_paper_has(make_task: Make) -> None:
    task = make_task()
    phases = _phases(_trainer(task))
    for phase in phases.values():
        criterion: Any = phase.criterion_for(phase.scheme(task))
        wanted = CrossEntropy if phase.name == "tumor_3d" else Dice
        assert type(criterion.loss) is wanted
        if isinstance(criterion.loss, Dice):
            assert criterion.loss.over_batch


def test_the_kidney_mask_is_corrupted_in_training_alone(make_task: Make) -> None:
    task = make_task()
    trainer = _trainer(task, *SMALL)
    trainer.phases()[0].run(task)
    phase = _phases(trainer)["tumor_2d"]
    assert phase.kind is TumorSliceSource
    held_out = phase.held_out_batches(task)
    for step in range(4):
        batch = held_out.batch(step)
        mask = batch["image"][:, 1]
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert (mask.bool() >= batch["labels"][:, 0].bool()).all()  # the tumor is part of it
    training = phase.training_batches(task)
    assert set(training.batch(0)["image"][:, 1].unique().tolist()) <= {0.0, 1.0}


def test_names_of_structures_reach_dense_training(make_task: Make) -> None:
    task = make_task()
    trainer = _trainer(task, *SMALL)
    trainer.phases()[0].run(task)
    source = _phases(trainer)["tumor_3d"].training_batches(task)
    assert isinstance(source, DenseSource)
    assert source.names == ("kidney", "tumour")
    assert source.foreground_share == pytest.approx(2 / 3)


@pytest.mark.parametrize("configuration", ["locate_fine", "cascade"])
def test_a_plan_with_several_stages_is_refused(make_task: Make, configuration: str) -> None:
    with pytest.raises(UsageError, match=r"one grid of whole scans.*--planner coarse_to_fine"):
        _trainer(make_task(configuration)).check()


def test_a_plan_with_other_axes_or_no_spacing_of_its_own_is_refused(make_task: Make) -> None:
    task = make_task()
    object.__setattr__(task, "plan", task.plan.model_copy(update={"axes": ("x", "z", "y")}))
    with pytest.raises(UsageError, match="runs whole along x z y"):
        _trainer(task).check()
    with pytest.raises(UsageError, match="one grid"):
        _trainer(_at(make_task(), spacing=(None, 2.0, 2.0))).check()


def test_labels_that_are_not_kidney_and_tumor_are_refused(make_task: Make) -> None:
    description = DatasetDescription(
        channel_names={"0": "CT"}, labels={"background": 0, "left kidney": 1, "right kidney": 2}
    )
    task = make_task(description=description)
    with pytest.raises(UsageError, match="--set tumor_label=NAME"):
        _trainer(task).check()
    _trainer(task, "tumor_label=left kidney").check()


@pytest.mark.parametrize("pixels", [120, 16])
def test_slices_that_do_not_fit_the_widths_are_refused(make_task: Make, pixels: int) -> None:
    with pytest.raises(UsageError, match="5 widths need a multiple of 16, 32 or more"):
        _trainer(make_task(), f"coarse_pixels={pixels}").check()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("widths=8", "two whole numbers"),
        ("widths=8,0", "above 0"),
        ("widths=8,a", "valid integer"),
        ("tumor_3d.widths=8", "two whole numbers"),
        ("tumor_3d.patch_mm=1,2", "Field required"),
        ("tumor_3d.patch_mm=1,2,-3", "above 0 mm"),
        ("correction_mm=0,5", "above 0 mm"),
        ("padding_mm=-1", "greater than or equal"),
        ("corection=false", "did you mean correction"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_settings(CoarseToFineSettings, [setting])


def test_several_numbers_stand_in_one_word() -> None:
    settings = parse_settings(
        CoarseToFineSettings, ["widths=8x16x32", "correction_mm=100,90.5", "tumor_3d.widths=4,8"]
    )
    assert settings.widths == (8, 16, 32)
    assert settings.correction_mm == (100, 90.5)
    assert settings.tumor_3d.widths == (4, 8)
    # what trainer.json keeps reads back as the same
    again = CoarseToFineSettings.model_validate(settings.model_dump(mode="json"))
    assert again == settings


def test_the_window_of_a_stage_leaves_the_grid_as_it_is(make_task: Make) -> None:
    task = make_task()
    for phase in _phases(_trainer(task)).values():
        stage: StagePlan = phase.stage
        assert (stage.name, stage.spacing) == ("whole", task.plan.stage("whole").spacing)
        assert prod(stage.patch_size) > 1
