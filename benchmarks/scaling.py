"""Time and memory of preprocessing and prediction against the number of cases and of workers.

    python benchmarks/scaling.py                                      # 1 2 4 8 16 cases, 1 and 2 workers
    python benchmarks/scaling.py --cases 1 2 4 --size 64 96 96 --patch 32 64 64     # a trial, minutes

Rows are `preprocess` (local processes, `--workers N`), `preprocess --dask` and `predict --dask` (a cluster of N
worker processes on this machine, started for each run and counted with it). Every run is a process of its
own from an empty folder, on as many cores as workers times --threads, so that a second worker brings its
own core. Cases are one phantom under many names and the target spacing is fixed, so that each is the same work.

What starting takes does not matter to scaling, so what counts is the time of a further case: the
difference to the row before, over the cases that it has more. Linear or better: it does not grow. Flat: the
most that the largest process ever held does not grow beyond what it is when all workers are busy.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from measuring import BenchmarkError, Cost, run_command
from memory import make_model

from renalplan.files import write_json
from renalplan.phantom import make_phantom_dataset

BIN = Path(sysconfig.get_path("scripts"))
SPACING = ("1.5", "0.8", "0.8")  # mm, of what is stored and predicted on
TIME_TOLERANCE = 1.15  # a further case may take so much more before it counts as growth
MEMORY_TOLERANCE = 1.10
WHAT = ("preprocess", "preprocess --dask", "predict --dask")
Found = dict[tuple[str, int, int], Cost]  # what, workers, cases


@dataclass(frozen=True)
class Setup:
    """Where things are, and how much of them."""

    work: Path
    dataset: Path
    model: Path
    threads: int


def main() -> int:
    """Prepare, measure, print the table and what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1, help="cores of each worker")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument("--size", type=int, nargs=3, default=[100, 512, 512], help="voxels")
    parser.add_argument("--spacing", type=float, nargs=3, default=[3.0, 0.8, 0.8], help="mm")
    parser.add_argument("--patch", type=int, nargs=3, default=[48, 160, 160], help="of windows")
    parser.add_argument("--features", type=int, default=8, help="of the network's first stage")
    parser.add_argument("--repeats", type=int, default=1, help="the table shows medians")
    parser.add_argument("--work", type=Path, default=Path("scaling_benchmark"))
    parser.add_argument("--cluster", type=int, nargs=2, help=argparse.SUPPRESS)
    given, command = parser.parse_known_args()
    if given.cluster:
        return on_cluster(*given.cluster, command)
    if command:
        parser.error(f"what is {' '.join(command)}?")
    setup = prepare(given)
    found: Found = {}
    for what in given.what:
        measure(
            what, 1, min(given.cases), setup
        )  # files into the cache, networks into OpenVINO's form
        for workers in given.workers:
            for cases in sorted(given.cases):
                costs = [measure(what, workers, cases, setup) for _ in range(given.repeats)]
                found[what, workers, cases] = middle(costs)
                print(f"{what}, {workers} workers, {cases} cases: {costs}", file=sys.stderr)
    print("\n".join([*table(found), "", *verdicts(found)]))
    return 0


def prepare(given: argparse.Namespace) -> Setup:
    """Phantoms, and a model with random weights, which take as long as trained ones."""
    work = given.work.resolve()
    dataset = work / "raw" / "Dataset901_Scaling"
    if not dataset.is_dir():
        make_phantom_dataset(
            dataset, cases=1, seed=3, size=tuple(given.size), spacing=tuple(given.spacing)
        )
    shutil.rmtree(work / "model", ignore_errors=True)
    make_model(work / "model", 2, given)
    return Setup(work, dataset, work / "model", given.threads)


def measure(what: str, workers: int, cases: int, setup: Setup) -> Cost:
    """Run one command from an empty output folder."""
    out = setup.work / "out"
    shutil.rmtree(out, ignore_errors=True)
    part = link_cases(setup.dataset, setup.work / "part" / setup.dataset.name, cases)
    names = [path.name.removesuffix(".nii.gz") for path in (part / "labelsTr").iterdir()]
    splits = out / "preprocessed" / part.name / "splits.json"  # none can be made for one case
    write_json(splits, {"folds": [{"train": sorted(names), "val": []}]})
    command = [str(BIN / "renalplan_plan_and_preprocess"), str(part), "--workspace", str(out)]
    command += ["--planner", "nnunet", "--configuration", "3d_fullres", "--spacing", *SPACING]
    if what.startswith("predict"):
        shutil.rmtree(out)
        command = [str(BIN / "renalplan_predict"), "-i", str(part / "imagesTr"), "-o", str(out)]
        command += ["-m", str(setup.model), "--device", "cpu", "--step", "1"]
    if what.endswith("--dask"):
        here = [sys.executable, __file__, "--cluster", str(workers), str(setup.threads)]
        command = [*here, *command]
    else:
        command += ["--workers", str(workers)]
    with cores(workers * setup.threads):
        return run_command(tuple(command), {}, setup.work / "log.txt")


def on_cluster(workers: int, threads: int, command: list[str]) -> int:
    """Run a command with a cluster's address; the cluster's processes are children of this one."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=workers, threads_per_worker=threads, dashboard_address=":0", memory_limit=0
    ) as cluster:
        address = cluster.scheduler_address
        return subprocess.run([*command, "--dask", address], check=False).returncode


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Allow this process, and what it starts, so many of its cores."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def link_cases(dataset: Path, target: Path, count: int) -> Path:
    """A dataset of so many cases, all of them links to the one that there is."""
    shutil.rmtree(target, ignore_errors=True)
    for part in ("imagesTr", "labelsTr"):
        (target / part).mkdir(parents=True)
        (path,) = (dataset / part).glob("*.nii.gz")
        for number in range(count):
            name = path.name.replace("case_0000", f"case_{number:04d}", 1)
            (target / part / name).symlink_to(path)
    description = json.loads((dataset / "dataset.json").read_text())
    (target / "dataset.json").write_text(json.dumps(description | {"numTraining": count}))
    return target


def middle(costs: list[Cost]) -> Cost:
    """The median of each quantity."""
    return Cost(
        wall_s=statistics.median(cost.wall_s for cost in costs),
        cpu_s=statistics.median(cost.cpu_s for cost in costs),
        peak_bytes=int(statistics.median(cost.peak_bytes for cost in costs)),
        largest_bytes=int(statistics.median(cost.largest_bytes for cost in costs)),
    )


def further_case(found: Found, what: str, workers: int) -> dict[int, float]:
    """Cases -> seconds that each case took beyond those of the row before."""
    counts = sorted(n for w, k, n in found if (w, k) == (what, workers))
    return {
        n: (found[what, workers, n].wall_s - found[what, workers, before].wall_s) / (n - before)
        for before, n in pairwise(counts)
    }


def table(found: Found) -> list[str]:
    """A line a run."""
    lines = [
        "| | workers | cases | wall s | s a further case | CPU s | peak GB | largest process GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (what, workers, cases), cost in found.items():
        further = further_case(found, what, workers).get(cases)
        more = "" if further is None else f"{further:.2f}"
        lines.append(
            f"| {what} | {workers} | {cases} | {cost.wall_s:.1f} | {more} | {cost.cpu_s:.1f} "
            f"| {cost.peak_bytes / 1e9:.2f} | {cost.largest_bytes / 1e9:.2f} |"
        )
    return lines


def verdicts(found: Found) -> list[str]:
    """What the table says, a line for each kind of run and number of workers."""
    lines = []
    for what, workers in dict.fromkeys((w, k) for w, k, _ in found):
        further = further_case(found, what, workers)
        busy = [n for n in further if n >= 2 * workers]  # before, not every worker has had a case
        if len(busy) < 2:
            lines.append(f"{what}, {workers} workers: too few numbers of cases to say anything.")
            continue
        first, last = further[busy[0]], further[busy[-1]]
        if first <= 0:
            lines.append(f"{what}, {workers} workers: cases are too small to be told from noise.")
            continue
        linear = "linear or better" if last <= TIME_TOLERANCE * first else "worse than linear"
        low, high = (found[what, workers, busy[end]].largest_bytes / 1e9 for end in (0, -1))
        flat = "flat" if high <= MEMORY_TOLERANCE * low else "growing"
        lines.append(
            f"{what}, {workers} workers: {linear} ({first:.2f} s a further case up to {busy[0]} cases, "
            f"{last:.2f} s up to {busy[-1]}); memory {flat} ({low:.2f} GB, {high:.2f} GB in the largest process)."
        )
    return lines


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as problem:
        raise SystemExit(str(problem)) from None
