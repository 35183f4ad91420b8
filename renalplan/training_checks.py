"""What is asked of `renalplan_train`, looked at as a whole before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from renalplan.boxes import BOXES
from renalplan.case_labels import canonical_boxes
from renalplan.dataset import Case, Dataset, DatasetDescription
from renalplan.errors import UsageError
from renalplan.files import read_record
from renalplan.model_folder import ModelFolder, require_plain_name
from renalplan.plan import Plan
from renalplan.plan_files import find_plan
from renalplan.planning import SPLITS
from renalplan.splits import Fold, choose_fold, is_fold, load_splits, parse_fold
from renalplan.training_hardware import Precision, task_on
from renalplan.workspace import Workspace

if TYPE_CHECKING:
    from renalplan.trainers.settings import TrainerSettings
    from renalplan.trainers.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class ReadyTraining:
    """A training that can begin.

    Attributes:
        path: The model folder.
        trainers: A trainer a fold.
        dataset: What it is trained on.
        cases: The labelled ones by id.
    """

    path: Path
    trainers: dict[str, Trainer]
    dataset: Dataset
    cases: dict[str, Case]


def prepare_training(
    task: str,
    fold: str,
    trainer: str,
    *,
    settings: list[str],
    plan_name: str | None,
    configuration: str | None,
    name: str | None,
    device: str,
    precision: Precision,
    accumulate: int | None,
    workers: int | None,
    progress: bool,
    deterministic: bool,
    workspace: Workspace,
    processes: int,
) -> ReadyTraining:
    """Look at everything a training needs, and refuse what cannot work; writes nothing.

    Args:
        processes: How many train together and share each batch.

    The others are those of `training.train`.

    Raises:
        UsageError: anything asked for that does not exist or does not fit.
    """
    from renalplan.trainers.registry import trainer_path

    if is_fold(trainer) and not is_fold(fold):
        raise UsageError(
            f"FOLD {fold!r} and TRAINER {trainer!r} have changed places; FOLD comes first: {trainer} {fold}."
        )
    trainer_path(trainer)
    if name is not None:
        require_plain_name(name)
    wanted = parse_fold(fold)
    dataset = Dataset.open(workspace.dataset_folder(task))
    begun = [name] if name else [f"{_short(trainer)}__{configuration}", _short(trainer)]
    plan, plan_folder = find_plan(workspace, dataset.name, plan_name, begun)
    cases = {case.id: case for case in dataset.training_cases}
    preprocessed = workspace.preprocessed(dataset.name)
    patients = {case.id: case.patient for case in cases.values()}
    splits = [] if wanted == "all" else load_splits(preprocessed / SPLITS, patients)
    folds = _folds(wanted, splits, tuple(cases))
    kind, values = _method(trainer, settings, device)  # from here on with PyTorch
    from renalplan.store_dataset import require_current
    from renalplan.trainers.divisible import check_phases

    unlabelled = dataset.unlabelled_cases
    needed = [case.id for case in (*cases.values(), *(unlabelled if kind.uses_unlabelled else ()))]
    used = configuration or plan.default_configuration
    path = workspace.results(dataset.name) / (name or _model_name(trainer, plan, used))
    task_of = partial(
        task_on(device, precision, workers, progress, accumulate, deterministic),
        plan=plan,
        configuration=used,
        description=read_record(preprocessed / "dataset.json", DatasetDescription),
        stores=plan_folder,
        model=ModelFolder(path),
        boxes=canonical_boxes(cases.values()) if kind.uses_boxes else {},
        boxed=_boxed(kind, trainer, dataset),
    )
    trainers: dict[str, Trainer] = {}
    for fold_name, split in folds.items():
        images = _images_alone(unlabelled, split, patients)
        trainers[fold_name] = kind(task_of(fold=split, fold_name=fold_name, **images), values)
        trainers[fold_name].check()
        check_phases(trainers[fold_name].phases(), processes, accumulate)
    require_current(plan_folder, plan, used, needed)
    return ReadyTraining(path=path, trainers=trainers, dataset=dataset, cases=cases)


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
    parts = [_short(trainer)]
    if plan.name != "renal":
        parts.append(plan.name)
    if configuration != plan.default_configuration:
        parts.append(configuration)
    return "__".join(parts)


def _short(trainer: str) -> str:
    """A trainer's name without its module."""
    return trainer.rpartition(":")[2]
