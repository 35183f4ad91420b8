"""What `renalplan_train` does: checks first, then a fold (or all of them), then real validation."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from renalplan.boxes import BOXES
from renalplan.case_labels import canonical_boxes
from renalplan.dataset import Case, Dataset, DatasetDescription
from renalplan.errors import RenalplanError, UsageError
from renalplan.files import read_record
from renalplan.fold_validation import FoldValidation
from renalplan.model_folder import ModelFolder
from renalplan.plan import Plan
from renalplan.plan_files import find_plan
from renalplan.planning import SPLITS
from renalplan.postprocessing import POSTPROCESSING
from renalplan.splits import Fold, choose_fold, load_splits, parse_fold
from renalplan.training_budget import CommandBudget, choose_budget
from renalplan.workspace import Workspace

if TYPE_CHECKING:
    from renalplan.trainers.settings import TrainerSettings
    from renalplan.trainers.task import TrainingTask
    from renalplan.trainers.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a training command leaves: the model folder and mean Dice of held-out cases by fold.

    `stopped` is the signal that asked to stop, if folds were left out for it.
    """

    model: Path
    folds: dict[str, dict[str, float]]
    stopped: int | None = None


def train(
    task: str,
    fold: int | str,
    trainer: str = "UNet",
    *,
    settings: list[str] | None = None,
    plan_name: str | None = None,
    configuration: str | None = None,
    name: str | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    workers: int | None = None,
    progress: bool = True,
    workspace: Workspace | None = None,
    restart: bool = False,
    budget: str | None = None,
    since: float | None = None,
) -> Trained:
    """Train a fold, `all` cases, or the folds in turn (`cv`), and validate on the held-out cases.

    Args:
        task: Dataset folder, name or number.
        fold: 0 … 4, `all` or `cv`.
        trainer: A trainer's name, or `module:Class`.
        settings: `name=value` changes of its hyperparameters.
        plan_name: Which plan, if the dataset has several.
        configuration: Which of the plan's configurations; its default one if None.
        name: Of the model folder; by default the trainer's, with what is no default of the plan.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto is fp32 on the CPU, bf16 (or fp16) autocast on a GPU.
        workers: Processes that prepare batches; None takes all cores but one.
        progress: Show a progress bar.
        workspace: Where everything is.
        restart: Delete what this fold has, and begin anew.
        budget: Time for all of this, e.g. `6h`; Ctrl-C or SIGTERM, once, then finishes the fold early.
        since: When the budget began to run, `time.monotonic()`; now if None.

    Raises:
        UsageError: anything asked for that does not exist, before any work starts.
    """
    from renalplan.trainers.registry import trainer_path

    trainer_path(trainer)
    wanted = parse_fold(str(fold))
    workspace = workspace or Workspace.find()
    dataset = Dataset.open(workspace.dataset_folder(task))
    plan, plan_folder = find_plan(workspace, dataset.name, plan_name)
    cases = {case.id: case for case in dataset.training_cases}
    preprocessed = workspace.preprocessed(dataset.name)
    patients = {case.id: case.patient for case in cases.values()}
    splits = load_splits(preprocessed / SPLITS, patients)
    folds = _folds(wanted, splits, tuple(cases))

    kind, values = _method(trainer, settings or [], device)
    boxed = _boxed(kind, trainer, dataset)
    unlabelled = dataset.unlabelled_cases
    needed = [case.id for case in (*cases.values(), *(unlabelled if kind.uses_unlabelled else ()))]
    used = configuration or plan.default_configuration
    path = workspace.results(dataset.name) / (name or _model_name(trainer, plan, used))
    task_of = partial(
        _task_on(device, precision, workers, progress),
        plan=plan,
        configuration=used,
        description=read_record(preprocessed / "dataset.json", DatasetDescription),
        stores=plan_folder,
        model=ModelFolder(path),
        boxes=canonical_boxes(cases.values()) if kind.uses_boxes else {},
        boxed=boxed,
    )
    trainers: dict[str, Trainer] = {}
    for fold_name, split in folds.items():
        images = _images_alone(unlabelled, split, patients)
        trainers[fold_name] = kind(task_of(fold=split, fold_name=fold_name, **images), values)
        trainers[fold_name].check()
    _require_stores(plan_folder, plan, used, needed)
    timed = choose_budget(budget, settings or [], trainers, since, restart=restart)
    results = _train_folds(trainers, trainer, dataset, cases, restart, timed, workers)
    if wanted == "cv":
        _gather(path, [name for name, scores in results.items() if scores])
    return Trained(path, results, timed.left_out(folds.keys() - results) if timed else None)


def _train_folds(
    trainers: dict[str, Trainer],
    name: str,
    dataset: Dataset,
    cases: dict[str, Case],
    restart: bool,
    timed: CommandBudget | None,
    workers: int | None,
) -> dict[str, dict[str, float]]:
    """Fold -> mean Dice by structure, of all folds or those before somebody asked to stop."""
    results: dict[str, dict[str, float]] = {}
    with timed.stop.listening() if timed else nullcontext():
        for fold, running in trainers.items():
            others = not trainers.keys() >= _folds_in(running.task.model.path)
            model = _open_model(running, name, restart, others=others)
            with timed.fold(running, model, dataset, cases, workers) if timed else nullcontext():
                results[fold] = train_and_validate(running, model, dataset, cases)
            if timed and timed.stop.signal:
                break
    return results


def _open_model(trainer: Trainer, name: str, restart: bool, *, others: bool) -> ModelFolder:
    """The trainer's model folder; to begin anew, its fold is deleted.

    Args:
        trainer: Of one fold.
        name: What it was called by.
        restart: Begin anew.
        others: Whether folds that stay are in the folder, which its description must go on to fit.
    """
    from renalplan.trainers.trainer import open_or_create

    model = open_or_create(trainer.task.model.path, trainer, name, anew=restart and not others)
    if restart:
        shutil.rmtree(trainer.task.fold_folder, ignore_errors=True)
        (model.path / POSTPROCESSING).unlink(missing_ok=True)  # chosen by scores that are gone
    return model


def _folds_in(path: Path) -> set[str]:
    return {p.name.removeprefix("fold_") for p in path.glob("fold_*")}


def _gather(path: Path, folds: list[str]) -> None:
    """One table of the folds that were scored."""
    from renalplan.evaluation.crossval import gather_folds

    if not folds:
        return
    gather_folds({int(f): path / f"fold_{f}" / "validation" for f in folds}, path)


def _task_on(
    device: str,
    precision: Literal["auto", "fp32", "bf16", "fp16"],
    workers: int | None,
    progress: bool,
) -> Callable[..., TrainingTask]:
    """`TrainingTask` with the hardware filled in; a precision it does not have is refused."""
    from renalplan.trainers.loop import choose_precision
    from renalplan.trainers.task import Hardware, TrainingTask

    hardware = Hardware(
        device=device, precision=precision, workers=_data_workers(workers), progress=progress
    )
    choose_precision(hardware)
    return partial(TrainingTask, hardware=hardware)


def train_and_validate(
    trainer: Trainer, model: ModelFolder, dataset: Dataset, cases: dict[str, Case]
) -> dict[str, float]:
    """Run a fold's phases, then predict its held-out scans as any scan and score them.

    Returns:
        Structure -> mean Dice; empty if nothing is held out, or nothing with labels.
    """
    trainer.run()
    return FoldValidation(trainer, model, dataset, cases).run()


def _method(
    trainer: str, settings: list[str], device: str
) -> tuple[type[Trainer], TrainerSettings]:
    """The trainer's class and its settings; a device that is not here is refused as well."""
    from renalplan.inference.options import choose_device
    from renalplan.trainers.registry import find_trainer
    from renalplan.trainers.settings import parse_settings

    choose_device(device)
    kind = find_trainer(trainer)
    return kind, parse_settings(kind.Settings, settings)


def _boxed(kind: type[Trainer], name: str, dataset: Dataset) -> frozenset[str]:
    """Cases that have boxes instead of labels.

    Raises:
        UsageError: the trainer would take the boxes for labels.
    """
    boxed = frozenset(case.id for case in dataset.training_cases if case.is_boxed)
    if boxed and not kind.uses_boxes:
        raise UsageError(
            f"{dataset.folder / BOXES} stands for the labels of {len(boxed)} cases, such as "
            f"{min(boxed)}; {name} needs labels. GroupTraining learns from boxes."
        )
    return boxed


def _folds(wanted: int | str, splits: list[Fold], cases: tuple[str, ...]) -> dict[str, Fold]:
    if wanted == "all":
        return {"all": Fold(train=cases, val=())}
    if wanted == "cv":
        return {str(number): fold for number, fold in enumerate(splits)}
    return {str(wanted): choose_fold(splits, int(wanted))}


def _images_alone(
    unlabelled: tuple[Case, ...], fold: Fold, patients: dict[str, str]
) -> dict[str, tuple[str, ...]]:
    """Unlabelled cases of patients that the fold does not hold out; the rest are withheld."""
    held_out = {patients[case] for case in fold.val}
    return {
        "unlabelled": tuple(case.id for case in unlabelled if case.patient not in held_out),
        "withheld": tuple(case.id for case in unlabelled if case.patient in held_out),
    }


def _model_name(trainer: str, plan: Plan, configuration: str) -> str:
    parts = [trainer.rpartition(":")[2]]
    if plan.name != "renal":
        parts.append(plan.name)
    if configuration != plan.default_configuration:
        parts.append(configuration)
    return "__".join(parts)


def _require_stores(folder: Path, plan: Plan, configuration: str, cases: list[str]) -> None:
    """Stop before training if a stage is not (or no longer) what the plan says.

    Raises:
        UsageError: a case is missing in a store, or was stored by another version of the plan.
    """
    from renalplan.store import read_case
    from renalplan.store_dataset import recipe

    again = f"renalplan_plan_and_preprocess {plan.dataset}"
    if plan.planner != "renal":
        again += f" --planner {plan.planner}"
    if plan.name != plan.planner:
        again += f" --plan_name {plan.name}"
    if configuration != plan.default_configuration:
        again += f" --configuration {configuration}"
    for stage in plan.run(configuration):
        wanted = recipe(plan, stage)
        for case in cases:
            try:
                stored = read_case(folder / stage.name, case)
            except RenalplanError:
                stored = None
            if stored is None or stored.recipe != wanted:
                state = "is not preprocessed" if stored is None else "was preprocessed differently"
                raise UsageError(
                    f"{case} {state} for the stage {stage.name} of plan {plan.name}; run {again}: "
                    "it does what is missing."
                )


def _data_workers(wanted: int | None) -> int:
    """As asked for, else all cores but one, at most twelve; a single core prepares in process."""
    from renalplan.parallel import usable_cores

    return min(12, usable_cores() - 1) if wanted is None else max(0, wanted)
