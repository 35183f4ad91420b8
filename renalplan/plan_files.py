"""Plans on disk: remembered options, edits by hand that are honoured, and finding the one to use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from renalplan.errors import DatasetError, UsageError
from renalplan.files import Record, read_record, value_hash, write_json
from renalplan.plan import Plan
from renalplan.workspace import Workspace

if TYPE_CHECKING:
    from renalplan.planners.fingerprint import Fingerprint
    from renalplan.planners.options import PlanOptions

PLAN = "plan.json"
ORIGIN = "plan_origin.json"


class PlanOrigin(Record):
    """plan_origin.json: what a plan was made from, and what it was when we wrote it."""

    fingerprint: str
    options: dict[str, Any]
    written: str


@dataclass(frozen=True)
class SettledPlan:
    """The plan in force; see `planning.Planned`."""

    plan: Plan
    folder: Path
    edited: bool = False
    replaced: str = ""


def remembered_options(folder: Path, asked: PlanOptions | None = None) -> PlanOptions:
    """The options a standing plan was made with.

    Args:
        folder: The dataset's preprocessed folder.
        asked: Whose planner and name say which plan; returned as it is if there is no such plan.
            None is the only plan there is (or `renal`, if several), else the defaults.

    Raises:
        DatasetError: plan_origin.json is not valid.
    """
    from renalplan.planners.options import PlanOptions

    origins = {path.parent.name: path for path in folder.glob(f"*/{ORIGIN}")}
    if asked is not None:
        path = origins.get(asked.name or asked.planner)
    else:
        path = next(iter(origins.values())) if len(origins) == 1 else origins.get("renal")
    if path is None:
        return asked or PlanOptions()
    known = _parse_options(read_record(path, PlanOrigin).options, path)
    return known if asked is None or known.planner == asked.planner else asked


def _parse_options(values: dict[str, Any], path: Path) -> PlanOptions:
    """Options as plan_origin.json has them; `DatasetError` if they are none."""
    from renalplan.planners.options import PlanOptions

    try:
        if unknown := sorted(values.keys() - {field.name for field in fields(PlanOptions)}):
            raise ValueError(f"there is no option {unknown[0]!r}")
        return TypeAdapter(PlanOptions).validate_python(values)
    except ValueError as problem:
        reason = problem.errors()[0]["msg"] if isinstance(problem, ValidationError) else problem
        raise DatasetError(
            f"{path}: options: {reason}; delete the file, and ask for the options again."
        ) from None


def settle_plan(
    fingerprint: Fingerprint, options: PlanOptions, folder: Path, replan: bool
) -> SettledPlan:
    """The plan in force: an edited one, the one there is, or a new one.

    Raises:
        UsageError: the plan was edited by hand, but the dataset or the options have changed.
    """
    from renalplan.planners.planner import make_plan

    plan = make_plan(fingerprint, options, len(fingerprint.cases))
    plan_folder = folder / plan.name
    path, origin_path = plan_folder / PLAN, plan_folder / ORIGIN
    origin = PlanOrigin.model_validate_json(
        PlanOrigin(
            fingerprint=value_hash(fingerprint), options=asdict(options), written=value_hash(plan)
        ).model_dump_json()
    )
    changes = ""
    if path.is_file():
        known = read_record(origin_path, PlanOrigin) if origin_path.is_file() else None
        changes = _changes(known, origin) if known else ""
        if not replan:
            standing = Plan.load(path)
            if known is None or value_hash(standing) != known.written:
                # a person's decision stands, as long as it was made for these data and options
                if changes:
                    raise UsageError(
                        f"{path} was edited by hand, and since then {changes}; go back to keep "
                        "the edit, give the new plan another --plan_name, or replace the edited "
                        "one with --replan."
                    )
                return SettledPlan(standing, plan_folder, edited=True)
    plan.save(path)
    write_json(origin_path, origin)
    return SettledPlan(plan, plan_folder, replaced=changes)


def _changes(old: PlanOrigin, new: PlanOrigin) -> str:
    """What is different, in words; empty if nothing is."""
    found = [
        f"{name} was {old.options.get(name)}, is {value}"
        for name, value in new.options.items()
        if old.options.get(name) != value
    ]
    if old.fingerprint != new.fingerprint:
        found.append("the dataset has changed")
    return "; ".join(found)


def find_plan(
    workspace: Workspace, dataset: str, name: str | None, models: Sequence[str] = ()
) -> tuple[Plan, Path]:
    """A stored plan: the named one, the only one, or the one that a model has begun with.

    Args:
        workspace: Where plans and models are.
        dataset: Its name.
        name: Of the plan, if somebody named it.
        models: Folders of models that may be meant; the first that is there decides if there are several
            plans: what was typed before there was a second plan means the same after.

    Raises:
        UsageError: none, or several and none named.
    """
    folder = workspace.preprocessed(dataset)
    plans = plan_names(folder)
    if not plans:
        raise UsageError(
            f"{dataset} has not been planned yet; run renalplan_plan_and_preprocess {dataset} first."
        )
    if name is None and len(plans) > 1:
        begun = (workspace.results(dataset) / model / PLAN for model in models)
        name = next((Plan.load(path).name for path in begun if path.is_file()), None)
    if name is None and len(plans) > 1:
        raise UsageError(f"{dataset} has the plans {', '.join(plans)}; choose one with --plan.")
    chosen = name or plans[0]
    if chosen not in plans:
        raise UsageError(f"{dataset} has no plan {chosen!r}; it has {', '.join(plans)}.")
    return Plan.load(folder / chosen / PLAN), folder / chosen


def plan_names(folder: Path) -> list[str]:
    """Names of the plans in a dataset's preprocessed folder."""
    return sorted(path.parent.name for path in folder.glob(f"*/{PLAN}"))
