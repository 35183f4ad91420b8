"""A trainer's phases run once each, on training cases only, and a model keeps to its settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from renalplan.errors import TrainingError, UsageError
from renalplan.files import read_record
from renalplan.model_folder import FINISHED, WEIGHTS, Finished, ModelFolder
from renalplan.splits import Fold
from renalplan.store import read_case
from renalplan.trainers.phase import TrainedNetwork
from renalplan.trainers.sampling import PatchSource
from renalplan.trainers.supervised import SupervisedSettings
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.trainer import Trainer, open_or_create
from renalplan.trainers.unet import UNet

SHORT = SupervisedSettings(epochs=2, iterations=2, validation_iterations=0)


def _delete_arrays(task: TrainingTask, case: str) -> None:
    """Everything but the sidecar, so that a case can be listed but not read."""
    found = [p for p in task.stores.glob(f"*/{case}.*") if p.name != f"{case}.json"]
    assert found
    for path in found:
        path.unlink()


@pytest.mark.parametrize("configuration", ["whole", "locate_fine"])
def test_training_never_reads_a_held_out_case(
    make_task: Callable[..., TrainingTask], configuration: str
) -> None:
    task = make_task(configuration)
    _delete_arrays(task, "case_c")
    UNet(task, SHORT).run()
    for stage in task.stages:
        assert (task.fold_folder / stage.name / WEIGHTS).is_file()
    assert (task.fold_folder / FINISHED).is_file()


def test_a_finished_fold_says_what_its_training_cases_hold(
    make_task: Callable[..., TrainingTask],
) -> None:
    task = make_task("whole")
    sidecar = task.stores / "whole" / "case_b.json"
    value = json.loads(sidecar.read_text())
    value["items"][0]["structures"]["tumour"] = 0
    sidecar.write_text(json.dumps(value))
    UNet(task, SHORT).run()
    finished = read_record(task.fold_folder / FINISHED, Finished)
    assert finished.training_cases == 2
    assert finished.cases_holding == {"kidney": 2, "tumour": 1}


def test_a_cascade_reads_held_out_images_to_predict_them_and_never_their_labels(
    make_task: Callable[..., TrainingTask],
) -> None:
    task = make_task("cascade")
    for path in task.stores.glob("*/case_c.*"):
        if "labels" in path.name or "places" in path.name:
            path.unlink()
    for path in (task.stores / "fullres").glob("case_c.*.b2nd"):
        path.unlink()  # the second stage's own held-out image is not needed either
    UNet(task, SHORT).run()
    before = task.fold_folder / "before_fullres"
    assert sorted(p.name for p in before.glob("*.b2nd")) == [f"case_{c}.0.b2nd" for c in "abc"]
    assert (task.fold_folder / "fullres" / WEIGHTS).is_file()


@pytest.mark.parametrize("configuration", ["whole", "locate_fine", "cascade"])
def test_training_batches_hold_training_cases_only(
    make_task: Callable[..., TrainingTask], configuration: str
) -> None:
    task = make_task(configuration)
    networks = [p for p in UNet(task, SHORT).phases() if isinstance(p, TrainedNetwork)]
    assert [phase.name for phase in networks] == [stage.name for stage in task.stages]
    for phase in networks:
        source = phase.training_batches(task)
        assert isinstance(source, PatchSource)
        assert {item.case for item in source.items} == {"case_a", "case_b"}


def test_pseudo_dice_looks_at_held_out_cases_only(
    make_task: Callable[..., TrainingTask],
) -> None:
    task = make_task()
    settings = SupervisedSettings(epochs=1, iterations=1, validation_iterations=2)
    _delete_arrays(task, "case_c")
    with pytest.raises(TrainingError, match=r"case_c\.0\..* cannot be opened|case_c"):
        UNet(task, settings).run()


def test_pseudo_dice_has_a_column_for_each_structure(
    make_task: Callable[..., TrainingTask],
) -> None:
    task = make_task("locate_fine")
    UNet(task, SupervisedSettings(epochs=1, iterations=1, validation_iterations=1)).run()
    header = (task.fold_folder / "fine" / "log.csv").read_text().splitlines()[0]
    assert header == "epoch,loss,learning_rate,seconds,dice_kidney,dice_tumour"
    header = (task.fold_folder / "locate" / "log.csv").read_text().splitlines()[0]
    assert header.endswith("seconds,dice_foreground")


def test_training_on_all_cases_holds_nothing_out(make_task: Callable[..., TrainingTask]) -> None:
    task = make_task(fold=Fold(train=("case_a", "case_b", "case_c"), val=()), fold_name="all")
    UNet(task, SupervisedSettings(epochs=1, iterations=1)).run()
    assert (task.model.path / "fold_all" / "whole" / WEIGHTS).is_file()


def test_a_phase_that_is_done_is_not_run_again(make_task: Callable[..., TrainingTask]) -> None:
    task = make_task("locate_fine")
    UNet(task, SHORT).run()
    located = (task.fold_folder / "locate" / WEIGHTS).stat().st_mtime_ns
    weights = (task.fold_folder / "fine" / WEIGHTS).read_bytes()
    (task.fold_folder / "fine" / WEIGHTS).unlink()
    UNet(task, SHORT).run()
    assert (task.fold_folder / "locate" / WEIGHTS).stat().st_mtime_ns == located
    assert (task.fold_folder / "fine" / WEIGHTS).read_bytes() == weights


def test_a_finished_phase_leaves_weights_log_and_picture_and_no_checkpoint(
    make_task: Callable[..., TrainingTask],
) -> None:
    task = make_task()
    leftover = task.fold_folder / "whole" / ".tmp-1-model.safetensors"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    UNet(task, SHORT).run()
    names = {path.name for path in (task.fold_folder / "whole").iterdir()}
    assert names == {WEIGHTS, "log.csv", "progress.png", "tensorboard"}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_does_not_change_the_weights(
    make_task: Callable[..., TrainingTask], tmp_path: Path, workers: int
) -> None:
    from dataclasses import replace

    task = make_task()
    UNet(task, SHORT).run()
    other = make_task(
        model=ModelFolder(tmp_path / "other"), hardware=replace(task.hardware, workers=workers)
    )
    UNet(other, SHORT).run()
    expected = (task.fold_folder / "whole" / WEIGHTS).read_bytes()
    assert (other.fold_folder / "whole" / WEIGHTS).read_bytes() == expected


def test_a_damaged_checkpoint_is_named(make_task: Callable[..., TrainingTask]) -> None:
    task = make_task()
    path = task.fold_folder / "whole" / "checkpoint.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match=r"checkpoint\.pt is damaged .* delete it"):
        UNet(task, SHORT).run()


def test_a_model_folder_is_opened_again_with_the_same_settings(
    make_task: Callable[..., TrainingTask],
) -> None:
    task = make_task()
    made = open_or_create(task.model.path, UNet(task, SHORT), "UNet")
    written = (made.path / "trainer.json").read_bytes()
    assert open_or_create(task.model.path, UNet(task, SHORT), "UNet") == made
    assert (made.path / "trainer.json").read_bytes() == written


def test_other_settings_are_refused_by_name(make_task: Callable[..., TrainingTask]) -> None:
    task = make_task()
    open_or_create(task.model.path, UNet(task, SHORT), "UNet")
    longer = SHORT.model_copy(update={"epochs": 9})
    with pytest.raises(UsageError, match=r"other settings \(epochs was 2, is 9\); .*--name"):
        open_or_create(task.model.path, UNet(task, longer), "UNet")
    model = open_or_create(task.model.path, UNet(task, longer), "UNet", anew=True)
    assert model.record.settings["epochs"] == 9


def test_another_plan_is_refused(make_task: Callable[..., TrainingTask]) -> None:
    task = make_task()
    open_or_create(task.model.path, UNet(task, SHORT), "UNet")
    other = make_task(plan=task.plan.model_copy(update={"dataset": "Dataset002_Other"}))
    with pytest.raises(UsageError, match="was trained with another plan"):
        open_or_create(task.model.path, UNet(other, SHORT), "UNet")


def test_another_configuration_is_refused(make_task: Callable[..., TrainingTask]) -> None:
    task = make_task()
    open_or_create(task.model.path, UNet(task, SHORT), "UNet")
    with pytest.raises(UsageError, match="other networks"):
        open_or_create(task.model.path, UNet(make_task("cascade"), SHORT), "UNet")


class OtherSettings(SupervisedSettings):
    temperature: float = 1.0


class OtherTrainer(UNet):
    """Same phases and networks as the default trainer, one setting more."""

    Settings = OtherSettings


def test_another_trainer_is_refused(make_task: Callable[..., TrainingTask]) -> None:
    task = make_task()
    mine = OtherTrainer(task, OtherSettings(**SHORT.model_dump()))
    open_or_create(task.model.path, UNet(task, SHORT), "UNet")
    with pytest.raises(UsageError, match="was trained by UNet, not by mine:OtherTrainer"):
        open_or_create(task.model.path, mine, "mine:OtherTrainer")
    open_or_create(task.model.path, mine, "mine:OtherTrainer", anew=True)
    with pytest.raises(UsageError, match="was trained by mine:OtherTrainer, not by UNet"):
        open_or_create(task.model.path, UNet(task, SHORT), "UNet")


def test_a_trainer_without_phases_cannot_be_made(make_task: Callable[..., TrainingTask]) -> None:
    class Empty(Trainer):
        pass

    with pytest.raises(TypeError, match="phases"):
        Empty(make_task())  # type: ignore[abstract]


def test_a_case_that_is_not_stored_is_named(make_task: Callable[..., TrainingTask]) -> None:
    task = make_task()
    assert read_case(task.stores / "whole", "case_a") is not None
    (task.stores / "whole" / "case_a.json").unlink()
    with pytest.raises(TrainingError, match=r"case_a is not in .*whole; run"):
        UNet(task, SHORT).run()
