"""What `renalplan_plan_and_preprocess` does: fingerprint -> plan -> stores, each only if needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from renalplan.dataset import Case, Dataset
from renalplan.errors import RenalplanError, UsageError
from renalplan.files import (
    Record,
    atomic_file,
    read_record,
    remove_leftovers,
    value_hash,
    write_json,
)
from renalplan.integrity import quick_check
from renalplan.labels import LabelScheme
from renalplan.parallel import map_cases
from renalplan.plan import Plan
from renalplan.progress import track
from renalplan.splits import load_splits
from renalplan.workspace import Workspace

if TYPE_CHECKING:
    from renalplan.planners.fingerprint import Fingerprint
    from renalplan.planners.options import PlanOptions

PLAN = "plan.json"
FINGERPRINT = "fingerprint.json"
SPLITS = "splits.json"


class PlanOrigin(Record):
    """plan_origin.json: what a plan was made from, and what it was when we wrote it."""

    fingerprint: str
    options: str
    written: str


@dataclass(frozen=True)
class Planned:
    """Where planning left things.

    Attributes:
        plan: The plan in force.
        folder: Its folder, with one store a stage.
        edited: The plan file was changed by hand and is honoured.
        stored: How many cases had to be preprocessed now.
    """

    plan: Plan
    folder: Path
    edited: bool
    stored: int


def plan_and_preprocess(
    task: str,
    *,
    options: PlanOptions | None = None,
    configurations: list[str] | None = None,
    workspace: Workspace | None = None,
    workers: int | None = None,
    replan: bool = False,
    progress: bool = True,
) -> Planned:
    """Fingerprint a dataset, plan, and preprocess what is missing or out of date.

    Args:
        task: Dataset folder, name or number.
        options: How to plan.
        configurations: Which of the plan's configurations to preprocess; the default one if None.
        workspace: Where results go.
        workers: Processes; None chooses by the number of cores.
        replan: Throw an existing plan away, edited or not.
        progress: Show a progress bar.

    Raises:
        UsageError: no such dataset, planner or configuration.
        DatasetError: something is wrong with the dataset.
    """
    from renalplan.planners.options import PlanOptions
    from renalplan.planners.planner import PLANNERS

    workspace = workspace or Workspace.find()
    options = options or PlanOptions()
    if options.planner not in PLANNERS:  # before the dataset is measured, which takes its time
        raise UsageError(f"no planner {options.planner!r}; there are {', '.join(PLANNERS)}.")
    dataset = Dataset.open(workspace.dataset_folder(task))
    quick_check(dataset)
    cases = dataset.training_cases

    from renalplan.store_dataset import StoreJob, hash_inputs, outdated, store_dataset

    workers = default_workers(len(cases)) if workers is None else workers
    folder = workspace.preprocessed(dataset.name)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    hashes = hash_inputs(cases, folder / "inputs.json", _meaning(dataset))
    fingerprint = load_fingerprint(dataset, cases, hashes, folder, workers, progress)
    write_json(folder / "dataset.json", dataset.description)
    load_splits(folder / SPLITS, {case.id: case.patient for case in cases})
    plan, plan_folder, edited = settle_plan(fingerprint, options, folder, replan)
    names = configurations or [plan.default_configuration]
    stages = {stage.name: stage for name in names for stage in plan.run(name)}
    job = StoreJob(plan, dataset.scheme, plan_folder)
    todo = len(outdated(cases, hashes, job, list(stages.values())))
    done = store_dataset(cases, hashes, job, list(stages.values()), workers)
    for _ in track(done, todo, "preprocess", progress):
        pass
    return Planned(plan=plan, folder=plan_folder, edited=edited, stored=todo)


def _meaning(dataset: Dataset) -> str:
    """Hash of what dataset.json says about the files: an edited one counts as changed files."""
    scheme = dataset.scheme
    return value_hash([dataset.description.channels, scheme.names, scheme.values, scheme.ignore])


def default_workers(cases: int) -> int:
    """One process a core, at most one a case; a single one computes in this process."""
    from renalplan.parallel import usable_cores

    count = min(usable_cores(), cases)
    return count if count > 1 else 0


def load_fingerprint(
    dataset: Dataset,
    cases: tuple[Case, ...],
    hashes: dict[str, str],
    folder: Path,
    workers: int,
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
    results = map_cases(measure_to_cache, todo, hashes, dataset.scheme, cache, workers=workers)
    for _, result in track(results, len(todo), "fingerprint", progress):
        if isinstance(result, RenalplanError):
            failure = failure or result
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


def settle_plan(
    fingerprint: Fingerprint, options: PlanOptions, folder: Path, replan: bool
) -> tuple[Plan, Path, bool]:
    """The plan in force: an edited one, the one there is, or a new one.

    Raises:
        UsageError: the plan was edited by hand, but the dataset or the options have changed.
    """
    from renalplan.planners.planner import make_plan

    plan = make_plan(fingerprint, options, len(fingerprint.cases))
    plan_folder = folder / plan.name
    path, origin_path = plan_folder / PLAN, plan_folder / "plan_origin.json"
    origin = PlanOrigin(
        fingerprint=value_hash(fingerprint),
        options=value_hash(repr(options)),
        written=value_hash(plan),
    )
    if path.is_file() and not replan:
        standing = Plan.load(path)
        known = read_record(origin_path, PlanOrigin) if origin_path.is_file() else None
        if known is None or value_hash(standing) != known.written:
            # a person's decision stands, as long as it was made for this dataset and these options
            if known and (known.fingerprint, known.options) != (origin.fingerprint, origin.options):
                raise UsageError(
                    f"{path} was edited by hand, and since then the dataset or the options have "
                    "changed; add --replan to replace it, or give the new plan another --plan_name."
                )
            return standing, plan_folder, True
    plan.save(path)
    write_json(origin_path, origin)
    return plan, plan_folder, False


def find_plan(workspace: Workspace, dataset: str, name: str | None) -> tuple[Plan, Path]:
    """A stored plan: the named one, or the only one there is.

    Raises:
        UsageError: none, or several and none named.
    """
    folder = workspace.preprocessed(dataset)
    plans = sorted(path.parent.name for path in folder.glob(f"*/{PLAN}"))
    if not plans:
        raise UsageError(
            f"{dataset} has not been planned yet; run renalplan_plan_and_preprocess {dataset} first."
        )
    if name is None and len(plans) > 1:
        raise UsageError(f"{dataset} has the plans {', '.join(plans)}; choose one with --plan.")
    chosen = name or plans[0]
    if chosen not in plans:
        raise UsageError(f"{dataset} has no plan {chosen!r}; it has {', '.join(plans)}.")
    return Plan.load(folder / chosen / PLAN), folder / chosen
