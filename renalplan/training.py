"""What `renalplan_train` does: checks first, then a fold (or all of them), then real validation."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from renalplan.boxes import BOXES
from renalplan.case_labels import canonical_boxes
from renalplan.dataset import Case, Dataset, DatasetDescription
from renalplan.errors import RenalplanError, UsageError
from renalplan.executors import open_executor
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
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Here = tuple[str, Precision, int]  # device, precision, processes that prepare batches


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
    precision: Precision = "auto",
    workers: int | None = None,
    progress: bool = True,
    workspace: Workspace | None = None,
    restart: bool = False,
    dask: str | None = None,
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
        dask: Scheduler whose workers train, a fold each, on their devices; they see the same files.
        budget: Time for all of this, e.g. `6h`; Ctrl-C or SIGTERM, once, then finishes the fold early.
        since: When the budget began to run, `time.monotonic()`; now if None.

    Raises:
        UsageError: anything asked for that does not exist, before any work starts.
    """
    if budget and dask:
        raise UsageError(
            "--budget is for the machine it is typed on; leave --dask out, or give each fold a budget "
            "on a machine of its own."
        )
    _require_trainer(trainer)
    wanted = parse_fold(str(fold))
    workspace = workspace or Workspace.find()
    dataset = Dataset.open(workspace.dataset_folder(task))
    plan, plan_folder = find_plan(workspace, dataset.name, plan_name)
    cases = {case.id: case for case in dataset.training_cases}
    preprocessed = workspace.preprocessed(dataset.name)
    patients = {case.id: case.patient for case in cases.values()}
    splits = load_splits(preprocessed / SPLITS, patients)
    folds = _folds(wanted, splits, tuple(cases))

    here: Here = ("auto", "auto", 0) if dask else (device, precision, _data_workers(workers))
    kind, values = _method(trainer, settings or [], here[0])
    unlabelled = dataset.unlabelled_cases
    needed = [case.id for case in (*cases.values(), *(unlabelled if kind.uses_unlabelled else ()))]
    used = configuration or plan.default_configuration
    path = workspace.results(dataset.name) / (name or _model_name(trainer, plan, used))
    task_of = partial(
        _task_on(*here, progress),
        plan=plan,
        configuration=used,
        description=read_record(preprocessed / "dataset.json", DatasetDescription),
        stores=plan_folder,
        model=ModelFolder(path),
        boxes=canonical_boxes(cases.values()) if kind.uses_boxes else {},
        boxed=_boxed(kind, trainer, dataset),
    )
    trainers = _make_trainers(kind, values, task_of, folds, unlabelled, patients)
    _require_stores(plan_folder, plan, used, needed)
    timed = choose_budget(budget, settings or [], trainers, since, restart=restart)
    if dask is None:
        results = _train_folds(trainers, trainer, dataset, cases, restart, timed, workers)
    else:
        results = _train_elsewhere(
            dask, workspace, dataset, trainers, restart, trainer=trainer, settings=settings,
            plan_name=plan_name, device=device, precision=precision, workers=workers,
            configuration=used,
        )  # fmt: skip
    if wanted == "cv":
        _gather(path, results)
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
    model = _open_model(trainers, name, restart)
    with timed.stop.listening() if timed else nullcontext():
        for fold, running in trainers.items():
            with timed.fold(running, model, dataset, cases, workers) if timed else nullcontext():
                results[fold] = train_and_validate(running, model, dataset, cases)
            if timed and timed.stop.signal:
                break
    return results


def _require_trainer(name: str) -> None:
    """Refuse a name that nobody has before anything else is looked at."""
    from renalplan.trainers.registry import trainer_path

    trainer_path(name)


def _make_trainers(
    kind: type[Trainer],
    values: TrainerSettings,
    task_of: Callable[..., TrainingTask],
    folds: dict[str, Fold],
    unlabelled: tuple[Case, ...],
    patients: dict[str, str],
) -> dict[str, Trainer]:
    """A trainer a fold, each of which has found nothing wrong."""
    trainers: dict[str, Trainer] = {}
    for name, fold in folds.items():
        images = _images_alone(unlabelled, fold, patients)
        trainers[name] = kind(task_of(fold=fold, fold_name=name, **images), values)
        trainers[name].check()
    return trainers


def _open_model(trainers: dict[str, Trainer], name: str, restart: bool) -> ModelFolder:
    """The model folder of all these folds; to begin anew, they are deleted first.

    Its description is written here, once, before any fold is trained: folds that are trained at the
    same time only read it.

    Args:
        trainers: Of the folds.
        name: What they were called by.
        restart: Begin anew.
    """
    from renalplan.trainers.trainer import open_or_create

    first = next(iter(trainers.values()))
    path = first.task.model.path
    others = not trainers.keys() >= _folds_in(path)  # what they are described by must go on to hold
    model = open_or_create(path, first, name, anew=restart and not others)
    for trainer in trainers.values() if restart else ():
        shutil.rmtree(trainer.task.fold_folder, ignore_errors=True)
        (path / POSTPROCESSING).unlink(missing_ok=True)  # chosen by scores that are gone
    for trainer in trainers.values():
        open_or_create(path, trainer, name)
    return model


def _train_elsewhere(
    dask: str,
    workspace: Workspace,
    dataset: Dataset,
    trainers: dict[str, Trainer],
    restart: bool,
    **asked: Any,
) -> dict[str, dict[str, float]]:
    """Have the workers of a dask scheduler train; `asked` are further arguments of `train`."""
    from renalplan.fold_jobs import train_folds

    task = next(iter(trainers.values())).task
    path = task.model.path
    seen = (dataset.folder / "dataset.json", task.stores / "plan.json")
    with open_executor(None, dask, reads=seen, writes=path, case_seconds=math.inf) as executor:
        _open_model(trainers, asked["trainer"], restart)
        places = {"task": dataset.folder.absolute(), "workspace": workspace.root.absolute()}
        arguments = asked | {name: str(place) for name, place in places.items()}
        return train_folds(list(trainers), arguments | {"name": path.name}, executor)


def _folds_in(path: Path) -> set[str]:
    return {p.name.removeprefix("fold_") for p in path.glob("fold_*")}


def _gather(path: Path, results: dict[str, dict[str, float]]) -> None:
    """One table of the folds that were scored."""
    folds = [fold for fold, scores in results.items() if scores]
    from renalplan.evaluation.crossval import gather_folds

    if not folds:
        return
    gather_folds({int(f): path / f"fold_{f}" / "validation" for f in folds}, path)


def _task_on(
    device: str,
    precision: Precision,
    workers: int,
    progress: bool,
) -> Callable[..., TrainingTask]:
    """`TrainingTask` with the hardware filled in; a precision it does not have is refused."""
    from renalplan.trainers.loop import choose_precision
    from renalplan.trainers.task import Hardware, TrainingTask

    hardware = Hardware(device=device, precision=precision, workers=workers, progress=progress)
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
