"""Dataset + Plan -> stores, case by case. A rerun does only what is missing or out of date."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from renalplan.case_labels import read_labels
from renalplan.dataset import Case
from renalplan.errors import RenalplanError, TrainingError, UsageError
from renalplan.files import (
    Record,
    content_hash,
    read_record,
    remove_leftovers,
    value_hash,
    write_json,
)
from renalplan.images import read_channels
from renalplan.labels import LabelScheme
from renalplan.normalisation import rescalings
from renalplan.parallel import CaseExecutor, map_cases, of_case, usable_cores
from renalplan.plan import Plan, StagePlan
from renalplan.preprocessing import body_box, prepare_image, prepare_labels, stage_spacing
from renalplan.regions import region_boxes
from renalplan.store import (
    StoredCase,
    forget_case,
    has_files,
    read_case,
    write_case,
    write_item,
)

LAYOUT = 3  # raise when the store's format or the arithmetic behind it changes


@dataclass(frozen=True)
class StoreJob:
    """What every case of a dataset is preprocessed by; picklable for worker processes."""

    plan: Plan
    scheme: LabelScheme
    folder: Path  # of the plan; stages are folders inside it


class Inputs(Record):
    """A case's files as they were when last hashed."""

    files: dict[str, tuple[int, int]]  # path -> (size, mtime in ns)
    hash: str


class InputTable(Record):
    """inputs.json: what every case's files were when last hashed."""

    cases: dict[str, Inputs]


def hash_inputs(cases: tuple[Case, ...], cache: Path, meaning: str = "") -> dict[str, str]:
    """Content hash of each case's files and, where these stand for labels, of its boxes.

    Files of unchanged size and time are not read again.

    Args:
        cases: The cases.
        cache: Where sizes, times and hashes are kept.
        meaning: Hash of what dataset.json says about the files, made part of every case's hash.
    """
    known = read_record(cache, InputTable).cases if cache.is_file() else {}

    def inputs_of(case: Case) -> Inputs:
        paths = [*case.images, *([case.label] if case.label else [])]
        state = {str(p.resolve()): (p.stat().st_size, p.stat().st_mtime_ns) for p in paths}
        old = known.get(case.id)
        if old is not None and old.files == state:
            return old
        return Inputs(files=state, hash=content_hash(*paths))

    with ThreadPoolExecutor(usable_cores()) as pool:  # hashing and reading let other threads run
        try:
            table = dict(zip((case.id for case in cases), pool.map(inputs_of, cases), strict=True))
        finally:  # whoever interrupts us does not wait for all of them
            pool.shutdown(cancel_futures=True)
    write_json(cache, InputTable(cases=table))
    boxed = {case.id: [[b.label, b.box] for b in case.boxes] for case in cases if case.is_boxed}
    hashes = {}
    for case_id, inputs in table.items():
        more = [*([meaning] if meaning else []), *([boxed[case_id]] if case_id in boxed else [])]
        hashes[case_id] = value_hash([inputs.hash, *more]) if more else inputs.hash
    return hashes


def recipe(plan: Plan, stage: StagePlan) -> str:
    """Hash of what shapes a stage's arrays: an edited plan redoes only the stages it touches."""
    return value_hash(
        {
            "layout": LAYOUT,
            "axes": plan.axes,
            # what a plan does not use must not change the hash of stores made before it could
            "channels": [c.model_dump(mode="json", exclude_none=True) for c in plan.channels],
            "spacing": stage.spacing,
            "region": stage.region,
            "margin_mm": stage.margin_mm if stage.region == "kidney" else None,
            "minimum_component_ml": stage.minimum_component_ml,
        }
    )


def outdated(
    cases: tuple[Case, ...], hashes: dict[str, str], job: StoreJob, stages: list[StagePlan]
) -> list[Case]:
    """Cases that some stage lacks or holds an old version of."""
    return [case for case in cases if not all(is_current(case, hashes, job, s) for s in stages)]


def is_current(case: Case, hashes: dict[str, str], job: StoreJob, stage: StagePlan) -> bool:
    """Whether a stage holds a case whole, made from these files by this plan."""
    folder = job.folder / stage.name
    try:
        stored = read_case(folder, case.id)
    except TrainingError:
        return False  # a damaged sidecar is as good as none
    return (
        stored is not None
        and (stored.inputs, stored.recipe) == (hashes[case.id], recipe(job.plan, stage))
        and all(has_files(folder, item) for item in stored.items)
    )


def require_current(folder: Path, plan: Plan, configuration: str, cases: list[str]) -> None:
    """Stop before training if a stage is not (or no longer) what the plan says.

    Args:
        folder: The plan's; stages are folders inside it.
        plan: What they should have been made by.
        configuration: Whose stages are looked at.
        cases: Ids of those that are needed.

    Raises:
        UsageError: a case is missing in a store, or was stored by another version of the plan.
    """
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
            except TrainingError:
                stored = None
            if stored is None or stored.recipe != wanted:
                state = "is not preprocessed" if stored is None else "was preprocessed differently"
                raise UsageError(
                    f"{case} {state} for the stage {stage.name} of plan {plan.name}; run {again}: "
                    "it does what is missing."
                )


def store_dataset(
    cases: tuple[Case, ...],
    hashes: dict[str, str],
    job: StoreJob,
    stages: list[StagePlan],
    executor: CaseExecutor,
) -> Iterator[Case]:
    """Preprocess every case that is not up to date, yielding each when it is done.

    Raises:
        RenalplanError: the first case that failed, after the others were finished.
    """
    for stage in stages:
        remove_leftovers(job.folder / stage.name)
    failure: RenalplanError | None = None
    todo = outdated(cases, hashes, job, stages)
    for case, result in map_cases(store_case, todo, hashes, job, stages, executor=executor):
        if isinstance(result, RenalplanError):
            failure = failure or of_case(case.id, result)
        yield case
    if failure is not None:
        raise failure


def store_case(case: Case, hashes: dict[str, str], job: StoreJob, stages: list[StagePlan]) -> None:
    """Read a case once and write the stages that are not up to date; the sidecars come last."""
    volume = read_channels(case.images)
    labels = read_labels(case, volume)
    body = body_box(volume.array)
    rules = rescalings(volume.array, job.plan.channels)
    for stage in stages:
        if is_current(case, hashes, job, stage):
            continue
        # where an unlabelled scan's kidneys are is for a trained stage to say: it is stored whole
        boxes = [body]
        if stage.region == "kidney" and labels is not None:
            mask = job.scheme.foreground_mask(labels)
            boxes = region_boxes(
                mask,
                volume.spacing,
                margin_mm=stage.margin_mm,
                minimum_ml=stage.minimum_component_ml,
            )
        folder = job.folder / stage.name
        forget_case(folder, case.id)  # a kill from here on must not leave the old sidecar standing
        items = []
        for number, box in enumerate(boxes):
            image = prepare_image(volume.array, box, volume.spacing, job.plan, stage, rules)
            target = None
            if labels is not None:
                target = prepare_labels(labels, box, volume.spacing, job.plan, stage)
            items.append(write_item(folder, f"{case.id}.{number}", image, target, box, job.scheme))
        write_case(
            folder,
            StoredCase(
                case=case.id,
                patient=case.patient,
                inputs=hashes[case.id],
                recipe=recipe(job.plan, stage),
                spacing=stage_spacing(job.plan, stage, volume.spacing),
                items=tuple(items),
            ),
        )
