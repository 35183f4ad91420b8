"""Our table beside the paper's: `--paper densebiasnet`, `--paper bisc`, `--paper coarse_to_fine` ….

Makes phantoms (or takes your dataset with --task), trains every row with every seed on fold 0 of the
dataset's five folds, predicts the cases held out there (never trained on) as any scan, and prints
means and standard deviations over the seeds. A killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from papers import PAPERS, Arm, Paper

from renalplan.dataset import Dataset
from renalplan.files import atomic_folder
from renalplan.phantom import make_phantom_dataset
from renalplan.plan_files import find_plan
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.training import train
from renalplan.workspace import Workspace


def main() -> None:
    """Parse, run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paper", choices=sorted(PAPERS), required=True)
    parser.add_argument("--workspace", type=Path, default=Path("paper_tables"))
    parser.add_argument(
        "--task", help="your dataset instead of phantoms; plan it first if you like"
    )
    parser.add_argument("--plan", help="which plan of it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", help="keys of some rows, see papers/")
    parser.add_argument("--shares", type=float, nargs="+", help="of the labelled patients")
    parser.add_argument(
        "--schedule",
        choices=("small", "paper"),
        default="small",
        help="short for phantoms on a CPU, or the trainers' defaults, which are the papers'",
    )
    parser.add_argument("--set", nargs="+", default=[], help="more settings for every row")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", type=int, default=None)
    given = parser.parse_args()
    paper = PAPERS[given.paper]
    if given.arms:
        paper = replace(paper, arms=tuple(arm for arm in paper.arms if arm.key in given.arms))
    workspace = Workspace.find(given.workspace)
    task = given.task or make_phantoms(given.paper, paper, workspace)
    shares = given.shares or list(paper.shares)
    out = workspace.root / f"paper_{given.paper}.json"
    results: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    # rows of one seed together, so that a run that is cut short has compared like with like
    for share in shares:
        for seed in given.seeds:
            for arm in paper.arms:
                name = f"paper_{arm.key}_{round(100 * share)}_s{seed}"
                results[name] = run(arm, paper, task, name, share, seed, workspace, given)
                out.write_text(json.dumps(results, indent=2))
        print(table(paper, results, share, given.seeds), flush=True)
        for group in groups_of(paper, task, workspace):
            print(table(paper, results, share, given.seeds, group), flush=True)
    if paper.after is not None:
        name = Dataset.open(workspace.dataset_folder(task)).name
        stores = find_plan(workspace, name, given.plan)[1]
        print(paper.after(stores, workspace.results(name), given.seeds), flush=True)


def make_phantoms(key: str, paper: Paper, workspace: Workspace) -> str:
    """The paper's phantom dataset, planned and preprocessed; its number."""
    number = paper.number
    folder = workspace.root / "raw" / f"Dataset{number}_{key}"
    if not (folder / "dataset.json").is_file():
        make_phantom_dataset(folder, workers=2, **paper.phantom)
    plan_and_preprocess(
        str(number),
        options=PlanOptions(**paper.plan),
        configurations=paper.configurations,
        workspace=workspace,
    )
    return str(number)


def run(
    arm: Arm,
    paper: Paper,
    task: str,
    name: str,
    share: float,
    seed: int,
    workspace: Workspace,
    given: argparse.Namespace,
) -> dict[str, Any]:
    """Train and validate one model, unless that is done; its scores on the held-out cases."""
    settings = [*arm.settings, f"seed={seed}", f"label_share={share}"]
    if given.schedule == "small":
        settings += [*paper.small, *arm.small]
    if arm.begins_as is not None:
        key, phases = arm.begins_as
        begin_as(task, name.replace(arm.key, key), name, phases, workspace)
    start = time.monotonic()
    trained = train(
        task,
        0,
        arm.trainer,
        settings=[*settings, *given.set],
        plan_name=given.plan,
        configuration=arm.configuration,
        name=name,
        device=given.device,
        precision=given.precision,
        workers=given.workers,
        workspace=workspace,
    )
    folder = trained.model / "fold_0"
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    seconds = json.loads((folder / "finished.json").read_text())["seconds"]
    scores = {
        structure: {score: spread["mean"] for score, spread in values["scores"].items()}
        for structure, values in summary["structures"].items()
    }
    groups = {
        group: mean_scores(folder / "validation" / "per_case.csv", cases)
        for group, cases in groups_of(paper, task, workspace).items()
    }
    print(f"{name}: {scores} after {time.monotonic() - start:.0f} s", flush=True)
    return {
        "settings": settings,
        "scores": scores,
        "groups": groups,
        "training_seconds": seconds,
    }


def begin_as(
    task: str, first: str, name: str, phases: tuple[str, ...], workspace: Workspace
) -> None:
    """Copy phases of one model's fold 0 into another's, which then goes on after them."""
    results = workspace.results(Dataset.open(workspace.dataset_folder(task)).name)
    for phase in phases:
        source, target = (results / model / "fold_0" / phase for model in (first, name))
        if source.is_dir() and not target.is_dir():
            with atomic_folder(target) as temporary:
                shutil.copytree(source, temporary, dirs_exist_ok=True)


def groups_of(paper: Paper, task: str, workspace: Workspace) -> dict[str, set[str]]:
    """Name of a group -> its cases; none where the dataset is not of phantoms."""
    truth = workspace.dataset_folder(task) / "phantom_truth.json"
    if paper.groups is None or not truth.is_file():
        return {}
    key, names = paper.groups
    known = json.loads(truth.read_text())
    return {
        name: {case for case, values in known.items() if values[key] == value}
        for value, name in names.items()
    }


def mean_scores(path: Path, cases: set[str]) -> dict[str, dict[str, float]]:
    """Structure -> score -> mean over these cases of a per_case.csv, and how many they are."""
    table = pd.read_csv(path, dtype={"case": str})
    table = table[table["case"].isin(cases)]
    found = {}
    for structure, rows in table.groupby("structure"):
        means = rows.select_dtypes("number").mean().dropna()
        found[str(structure)] = {"n": float(len(rows)), **means.to_dict()}
    return found


def table(
    paper: Paper,
    results: dict[str, Any],
    share: float,
    seeds: list[int],
    group: str | None = None,
) -> str:
    """A markdown table: ours (mean ± sd over seeds), the paper's in brackets; of one group of cases."""
    headings = [heading for *_, heading in paper.columns]
    of = f", {group}" if group else ""
    lines = [
        f"### {paper.title}{of}, {100 * share:g} % of the labelled patients, {len(seeds)} seeds",
        "",
        "| | " + " | ".join(headings) + " | training |",
        "|---|" + "---|" * (len(headings) + 1),
    ]
    for arm in paper.arms:
        runs = [results[f"paper_{arm.key}_{round(100 * share)}_s{seed}"] for seed in seeds]
        cells = []
        for structure, score, _ in paper.columns:
            found = [r["groups"][group] if group else r["scores"] for r in runs]
            values = [scores.get(structure, {}).get(score) for scores in found]
            usual = share == paper.shares[0]  # the paper's own
            theirs = "" if group else paper_value(arm, structure, score, share, usual=usual)
            cells.append(cell([v for v in values if v is not None]) + theirs)
        minutes = statistics.median(r["training_seconds"] for r in runs) / 60
        lines.append(f"| {arm.name} | " + " | ".join(cells) + f" | {minutes:.1f} min |")
    return "\n".join([*lines, ""])


def cell(values: list[float]) -> str:
    """Mean ± standard deviation over the seeds."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def paper_value(arm: Arm, structure: str, score: str, share: float, *, usual: bool) -> str:
    """What the paper has in this place, in brackets; nothing if it has nothing."""
    keys = [score, f"{structure} {score}"] if usual else [f"{score} {100 * share:g}%"]
    found = next((arm.paper[key] for key in keys if key in arm.paper), None)
    return f" [{found}]" if found else ""


if __name__ == "__main__":
    main()
