"""What `renalplan_plan_and_preprocess` does: fingerprint -> plan -> stores, each only if needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from renalplan.dataset import Case, Dataset
from renalplan.errors import RenalplanError, UsageError
from renalplan.executors import open_executor
from renalplan.files import (
    atomic_file,
    read_record,
    remove_leftovers,
    value_hash,
    write_json,
)
from renalplan.integrity import quick_check
from renalplan.labels import LabelScheme
from renalplan.locks import hold
from renalplan.parallel import CaseExecutor, map_cases, of_case
from renalplan.plan import Plan
from renalplan.plan_files import remembered_options, settle_plan
from renalplan.progress import track
from renalplan.splits import load_splits
from renalplan.workspace import Workspace

if TYPE_CHECKING:
    from renalplan.planners.fingerprint import Fingerprint
    from renalplan.planners.options import PlanOptions

FINGERPRINT = "fingerprint.json"
SPLITS = "splits.json"


@dataclass(frozen=True)
class Planned:
    """Where planning left things.

    Attributes:
        plan: The plan in force.
        folder: Its folder, with one store a stage.
        edited: The plan file was changed by hand and is honoured.
        replaced: What is different from the plan that stood there before, in words.
        stored: How many cases had to be preprocessed now.
        kept: Options of the earlier run that hold though nobody asked for them now: name -> value.
        boxed: Some cases have boxes instead of labels.
    """

    plan: Plan
    folder: Path
    edited: bool
    replaced: str
    stored: int
    boxed: bool = False
    kept: dict[str, Any] = field(default_factory=dict)


def plan_and_preprocess(
    task: str,
    *,
    options: PlanOptions | None = None,
    configurations: list[str] | None = None,
    workspace: Workspace | None = None,
    workers: int | None = None,
    dask: str | None = None,
    replan: bool = False,
    remember: bool = False,
    progress: bool = True,
) -> Planned:
    """Fingerprint a dataset, plan, and preprocess what is missing or out of date.

    Args:
        task: Dataset folder, name or number.
        options: How to plan; None plans as last time, or by the defaults the first time.
        configurations: Which of the plan's configurations to preprocess; the default one if None.
        workspace: Where results go.
        workers: Processes; None chooses by the number of cores.
        dask: Address of a dask scheduler whose workers measure and preprocess; they must see the
            dataset and the workspace under the same names.
        replan: Throw an existing plan away, edited or not.
        remember: `options` only name a planner and a plan; if that plan stands, its others hold.
        progress: Show a progress bar.

    Raises:
        UsageError: no such dataset, planner or configuration, the cluster cannot do it, or another
            run preprocesses the dataset.
        DatasetError: something is wrong with the dataset.
    """
    from renalplan.planners.planner import PLANNERS

    workspace = workspace or Workspace.find()
    if options is not None and options.planner not in PLANNERS:
        # before the dataset is measured, which takes its time
        raise UsageError(f"no planner {options.planner!r}; there are {', '.join(PLANNERS)}.")
    raw = workspace.dataset_folder(task)
    if dask is not None:
        workspace, raw = workspace.absolute(), raw.absolute()
    dataset = Dataset.open(raw)
    folder = workspace.preprocessed(dataset.name)
    with ExitStack() as stack:
        stack.enter_context(hold(folder, "preprocessing", f"{folder} is being written"))
        quick_check(dataset)
        first = dataset.training_cases[0].images
        executor = stack.enter_context(
            open_executor(
                workers, dask, cases=len(dataset.training_cases), reads=first, writes=folder
            )
        )
        return _plan_and_store(
            dataset, folder, options, configurations, executor,
            replan=replan, remember=remember, progress=progress,
        )  # fmt: skip


def _plan_and_store(
    dataset: Dataset,
    folder: Path,
    options: PlanOptions | None,
    configurations: list[str] | None,
    executor: CaseExecutor,
    *,
    replan: bool,
    remember: bool,
    progress: bool,
) -> Planned:
    """The work of `plan_and_preprocess`; `folder` is the dataset's among the preprocessed ones."""
    from renalplan.store_dataset import StoreJob, hash_inputs, outdated, store_dataset

    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    cases, unlabelled = dataset.training_cases, dataset.unlabelled_cases
    everything = (*cases, *unlabelled)
    hashes = hash_inputs(everything, folder / "inputs.json", _meaning(dataset))
    # plans follow the labelled cases alone: an unlabelled one says nothing about structures
    labelled = {case.id: hashes[case.id] for case in cases}
    write_json(folder / "dataset.json", dataset.description)
    # splits come meanwhile: what draws them takes as long to import as a case to measure
    with ThreadPoolExecutor(1) as beside:
        splits = beside.submit(_draw_splits, folder / SPLITS, {c.id: c.patient for c in cases})
        fingerprint = load_fingerprint(dataset, cases, labelled, folder, executor, progress)
    splits.result()
    kept: dict[str, Any] = {}
    if options is None or remember:
        asked, options = options, remembered_options(folder, options)
        kept = options.unlike(asked)
    settled = settle_plan(fingerprint, options, folder, replan)
    plan, plan_folder = settled.plan, settled.folder
    remove_leftovers(plan_folder)
    names = configurations or [plan.default_configuration]
    stages = {stage.name: stage for name in names for stage in plan.run(name)}
    job = StoreJob(plan, dataset.scheme, plan_folder)
    todo = len(outdated(everything, hashes, job, list(stages.values())))
    done = store_dataset(everything, hashes, job, list(stages.values()), executor)
    for _ in track(done, todo, "preprocess", progress):
        pass
    return Planned(
        plan=plan,
        folder=plan_folder,
        edited=settled.edited,
        replaced=settled.replaced,
        stored=todo,
        boxed=any(case.is_boxed for case in cases),
        kept=kept,
    )


def _draw_splits(path: Path, patients: dict[str, str]) -> None:
    """The folds; none for one patient, who can be learned from (FOLD `all`) but not held out."""
    if path.exists() or len(set(patients.values())) > 1:
        load_splits(path, patients)


def _meaning(dataset: Dataset) -> str:
    """Hash of what dataset.json says about the files: an edited one counts as changed files."""
    scheme = dataset.scheme
    return value_hash([dataset.description.channels, scheme.names, scheme.values, scheme.ignore])


def load_fingerprint(
    dataset: Dataset,
    cases: tuple[Case, ...],
    hashes: dict[str, str],
    folder: Path,
    executor: CaseExecutor,
    progress: bool,
) -> Fingerprint:
    """The dataset's fingerprint; only cases whose files changed are measured again."""
    from renalplan.planners.fingerprint import Fingerprint, combine

    path = folder / FINGERPRINT
    if path.is_file():
        stored = read_record(path, Fingerprint)
        if stored.inputs == hashes:
            return stored
    cache = folder / "fingerprint"
    remove_leftovers(cache)
    todo = [case for case in cases if not _cached(cache, case, hashes).is_file()]
    failure: RenalplanError | None = None
    results = map_cases(measure_to_cache, todo, hashes, dataset.scheme, cache, executor=executor)
    for case, result in track(results, len(todo), "fingerprint", progress):
        if isinstance(result, RenalplanError):
            failure = failure or of_case(case.id, result)
    if failure is not None:
        raise failure
    measured = [_read_cached(_cached(cache, case, hashes)) for case in cases]
    fingerprint = combine(
        dataset.name, dataset.description.channels, dataset.scheme, measured, hashes
    )
    write_json(path, fingerprint)
    return fingerprint


def measure_to_cache(case: Case, hashes: dict[str, str], scheme: LabelScheme, cache: Path) -> None:
    """Measure one case and keep the result under its content's hash."""
    from renalplan.planners.fingerprint import measure_case

    fingerprint, samples = measure_case(case, scheme)
    for old in cache.glob(f"{case.id}-*.npz"):
        old.unlink()
    with atomic_file(_cached(cache, case, hashes)) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, samples=samples, json=np.array(fingerprint.model_dump_json()))


def _cached(cache: Path, case: Case, hashes: dict[str, str]) -> Path:
    return cache / f"{case.id}-{hashes[case.id]}.npz"


def _read_cached(path: Path):  # type: ignore[no-untyped-def]
    from renalplan.planners.fingerprint import CaseFingerprint

    with np.load(path, allow_pickle=False) as archive:
        return CaseFingerprint.model_validate_json(str(archive["json"])), archive["samples"]
