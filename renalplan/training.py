"""What `renalplan_train` does: checks first, then a fold (or all of them), then real validation."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from renalplan.boxes import BOXES
from renalplan.case_labels import canonical_boxes
from renalplan.dataset import Case, Dataset, DatasetDescription
from renalplan.errors import RenalplanError, TrainingError, UsageError
from renalplan.files import read_record
from renalplan.model_folder import ModelFolder
from renalplan.plan import Plan
from renalplan.plan_files import find_plan
from renalplan.planning import SPLITS
from renalplan.postprocessing import POSTPROCESSING
from renalplan.splits import Fold, choose_fold, load_splits, parse_fold
from renalplan.together import run_together
from renalplan.training_hardware import starts_several, task_on
from renalplan.workspace import Workspace

if TYPE_CHECKING:
    from renalplan.trainers.settings import TrainerSettings
    from renalplan.trainers.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a training command leaves: the model folder and mean Dice of held-out cases by fold.

    Attributes:
        reported: Whether this process is the one that reports: of several that train together, the
            others know no scores.
    """

    model: Path
    folds: dict[str, dict[str, float]]
    reported: bool = True


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
    devices: int = 1,
    accumulate: int | None = None,
    workers: int | None = None,
    progress: bool = True,
    workspace: Workspace | None = None,
    restart: bool = False,
) -> Trained:
    """Train a fold, `all` cases, or the folds in turn (`cv`), and validate on the held-out cases.

    Args:
        task: Dataset folder, name or number.
        fold: 0 … 4, `all` or `cv`.
        trainer: A trainer's name, or `module:Class`.
        settings: `name=value` changes of its hyperparameters.
        plan_name: Which plan, if the dataset has several.
        configuration: Which of the plan's configurations; its default one if None.
        name: Of the model folder; by default the trainer's, with plan and configuration if they are
            not the default ones.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto is fp32 on the CPU, bf16 (or fp16) autocast on a GPU.
        devices: GPUs of this machine (processes on a CPU) that share every batch. Leave it out
            under torchrun and SLURM, which start the processes themselves.
        accumulate: In how many parts, one after the other, each device works on its share; None is
            one, and more if memory runs out.
        workers: Processes that prepare batches; None takes all cores but one.
        progress: Show a progress bar.
        workspace: Where everything is.
        restart: Delete what this fold has, and begin anew.

    Raises:
        UsageError: anything asked for that does not exist, before any work starts.
    """
    asked: dict[str, Any] = {
        "settings": settings or [],
        "plan_name": plan_name,
        "configuration": configuration,
        "name": name,
        "device": device,
        "precision": precision,
        "accumulate": accumulate,
        "workers": workers,
        "progress": progress,
        "workspace": workspace or Workspace.find(),
    }
    asked |= {"task": task, "fold": str(fold), "trainer": trainer}
    if starts_several(device, devices, accumulate):
        _prepare(**asked, processes=devices)  # what cannot work is refused before they are started
        return run_together(_train_here, devices, {"asked": asked, "restart": restart})
    return _train_here(asked, restart)


def _train_here(asked: dict[str, Any], restart: bool) -> Trained:
    """What `train` does in this process, which may be one of several that train together."""
    from renalplan.trainers import ranks

    ready = _prepare(**asked, processes=ranks.started_world())
    results: dict[str, dict[str, float]] = {}
    for fold_name, running in ready.trainers.items():
        others = not ready.trainers.keys() >= _folds_in(ready.path)
        opened = partial(_open_model, running, asked["trainer"], restart, others=others)
        model = ranks.lead_alone(opened) or ModelFolder(ready.path)
        results[fold_name] = train_and_validate(running, model, ready.dataset, ready.cases)
    if asked["fold"] == "cv" and ranks.leads():
        _gather(ready.path, [name for name, scores in results.items() if scores])
    trained = Trained(model=ready.path, folds=results, reported=ranks.leads())
    ranks.part()
    return trained


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A training that was looked at and can begin: the model folder, a trainer a fold, the cases."""

    path: Path
    trainers: dict[str, Trainer]
    dataset: Dataset
    cases: dict[str, Case]


def _prepare(
    task: str,
    fold: str,
    trainer: str,
    *,
    settings: list[str],
    plan_name: str | None,
    configuration: str | None,
    name: str | None,
    device: str,
    precision: Literal["auto", "fp32", "bf16", "fp16"],
    accumulate: int | None,
    workers: int | None,
    progress: bool,
    workspace: Workspace,
    processes: int,
) -> _Ready:
    """Look at everything a training needs, and refuse what cannot work; writes nothing."""
    from renalplan.trainers.divisible import check_phases
    from renalplan.trainers.registry import trainer_path

    trainer_path(trainer)
    dataset = Dataset.open(workspace.dataset_folder(task))
    plan, plan_folder = find_plan(workspace, dataset.name, plan_name)
    cases = {case.id: case for case in dataset.training_cases}
    preprocessed = workspace.preprocessed(dataset.name)
    patients = {case.id: case.patient for case in cases.values()}
    splits = load_splits(preprocessed / SPLITS, patients)
    folds = _folds(parse_fold(fold), splits, tuple(cases))
    description = read_record(preprocessed / "dataset.json", DatasetDescription)

    kind, values = _method(trainer, settings, device)
    boxed = _boxed(kind, trainer, dataset)
    unlabelled = dataset.unlabelled_cases
    needed = [case.id for case in (*cases.values(), *(unlabelled if kind.uses_unlabelled else ()))]
    used = configuration or plan.default_configuration
    path = workspace.results(dataset.name) / (name or _model_name(trainer, plan, used))
    task_of = partial(
        task_on(device, precision, workers, progress, accumulate),
        plan=plan,
        configuration=used,
        description=description,
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
        check_phases(trainers[fold_name].phases(), processes, accumulate)
    _require_stores(plan_folder, plan, used, needed)
    return _Ready(path=path, trainers=trainers, dataset=dataset, cases=cases)


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


def train_and_validate(
    trainer: Trainer, model: ModelFolder, dataset: Dataset, cases: dict[str, Case]
) -> dict[str, float]:
    """Run a fold's phases, then predict its held-out scans and score them, see `validate`.

    Where several processes train together the first one predicts; the others know no scores.
    """
    from renalplan.trainers.ranks import lead_alone

    trainer.run()
    return lead_alone(partial(validate, trainer, model, dataset, cases)) or {}


def validate(
    trainer: Trainer, model: ModelFolder, dataset: Dataset, cases: dict[str, Case]
) -> dict[str, float]:
    """Predict a fold's held-out scans as any scan and score them.

    Returns:
        Structure -> mean Dice; empty if nothing is held out, or nothing with labels.
    """
    task = trainer.task
    judged = [case for case in task.fold.val if cases[case].label is not None]
    if left_out := len(task.fold.val) - len(judged):
        log.info(
            "fold %s: %d of %d held-out cases have boxes and no labels, so they are not scored",
            task.fold_name, left_out, len(task.fold.val),
        )  # fmt: skip
    if not judged:
        return {}
    from renalplan.evaluation.evaluate import evaluate_folders
    from renalplan.images import image_ending
    from renalplan.inference.options import InferenceOptions
    from renalplan.inference.predictor import Predictor
    from renalplan.inference.report import REPORT
    from renalplan.inference.scans import ScanFiles

    out = task.fold_folder / "validation"
    options = InferenceOptions(device=task.hardware.device)
    predictor = Predictor.from_model(
        model, [task.fold_name], options, unfinished=True, postprocessing=False
    )  # what the networks say is scored; renalplan_find_best chooses rules by these scores
    scans = [
        ScanFiles(id=c, images=images, ending=image_ending(images[0]) or ".nii.gz")
        for c in judged
        for images in [_channels_of(cases[c], task.channels)]
    ]
    report = predictor.predict_folder(
        scans,
        out,
        workers=min(1, task.hardware.workers),
        overwrite=not (out / REPORT).is_file(),  # nobody else writes into a fold's folder
    )
    if report.failed:
        case, reason = next(iter(report.failed.items()))
        raise TrainingError(f"validation of {case} failed: {reason}")
    evaluation = evaluate_folders(
        out, dataset.folder / "labelsTr", task.scheme, out, cases=set(judged)
    )
    scores = evaluation.summary.structures.items()
    return {name: structure.scores["dice"].mean for name, structure in scores}


def _channels_of(case: Case, wanted: tuple[int, ...] | None) -> tuple[Path, ...]:
    return case.images if wanted is None else tuple(case.images[number] for number in wanted)


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
