"""Time and memory of renalplan_plan_and_preprocess beside nnU-Net's, on the same dataset in one go.

The two commands run alternately as separate processes, each from an empty output folder. With the
planner `nnunet` both do the same work: whole volumes at nnU-Net's spacing. See README.md here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
from measuring import BenchmarkError, nnunet_environment, run_command
from numpy.typing import NDArray

from renalplan.dataset import Case, Dataset
from renalplan.errors import RenalplanError
from renalplan.files import read_record
from renalplan.geometry import Box, Grid, Orientation, box_shape, box_slices
from renalplan.images import read_channels, read_grid, read_volume, write_volume
from renalplan.parallel import usable_cores
from renalplan.phantom import make_phantom_dataset
from renalplan.plan import Plan
from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.options import PlanOptions
from renalplan.planners.planner import make_plan
from renalplan.store import ItemArrays, StoredCase, open_array, read_case

BORDER_VOXELS = 8  # cut off on every side before arrays are compared: spline ends differ there
DATASET = "Dataset901_Benchmark"
COPY = "Dataset902_BenchmarkCopy"
CONFIGURATION = "3d_fullres"
NNUNET_COMMAND = "nnUNetv2_plan_and_preprocess"
HOW_TO_INSTALL = (
    f"{NNUNET_COMMAND} was not found: run `python -m venv nnunet_venv && "
    "nnunet_venv/bin/pip install nnunetv2==2.8.1` and give --nnunet nnunet_venv/bin."
)


@dataclass(frozen=True)
class Side:
    """One program to measure.

    Attributes:
        name: What the table calls it.
        command: Its command line.
        out: The folder it writes to; emptied before each run.
        environment: What is set in addition to this process' environment.
    """

    name: str
    command: tuple[str, ...]
    out: Path
    environment: dict[str, str]


@dataclass(frozen=True)
class Run:
    """One measured run: seconds of wall clock and of all cores together, bytes, stored voxels."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    output_bytes: int
    voxels: int


def measure(side: Side, log: Path) -> Run:
    """Run one side from an empty output folder.

    Raises:
        BenchmarkError: the command failed.
    """
    shutil.rmtree(side.out, ignore_errors=True)
    side.out.mkdir(parents=True)
    cost = run_command(side.command, side.environment, log)
    return Run(
        wall_s=cost.wall_s,
        cpu_s=cost.cpu_s,
        peak_bytes=cost.peak_bytes,
        output_bytes=sum(p.stat().st_size for p in side.out.rglob("*") if p.is_file()),
        voxels=stored_voxels(side.out),
    )


def make_sides(work: Path, nnunet: Path, workers: int) -> tuple[Side, Side, Side]:
    """NnU-Net, renalplan doing the same work (its target spacing is still to be added), default."""
    count = str(workers)
    theirs = Side(
        name="nnU-Net",
        command=(
            *(str(nnunet / NNUNET_COMMAND), "-d", "901", "-c", CONFIGURATION),
            *("-np", count, "-npfp", count, "--no_pbar"),
        ),
        out=work / "nnunet_preprocessed",
        environment=nnunet_environment(work),
    )
    program = Path(sysconfig.get_path("scripts")) / "renalplan_plan_and_preprocess"

    def ours(name: str, folder: str, *options: str) -> Side:
        arguments = (str(work / "raw" / DATASET), "--workspace", str(work / folder))
        return Side(
            name=name,
            command=(str(program), *arguments, "--workers", count, *options),
            out=work / folder,
            environment={},
        )

    same = ("--planner", "nnunet", "--configuration", CONFIGURATION)
    return (
        theirs,
        ours("renalplan, same work", "renalplan_same", *same),
        ours("renalplan, its default", "renalplan_default"),
    )


def nnunet_spacing(work: Path, dataset: Dataset) -> tuple[float, ...]:
    """The spacing nnU-Net planned, in mm along the canonical (z, y, x)."""
    plans = json.loads((work / "nnunet_preprocessed" / DATASET / "nnUNetPlans.json").read_text())
    planned = plans["configurations"][CONFIGURATION]["spacing"]
    by_file_axis = [planned[a] for a in plans["transpose_backward"]]
    orientation = Orientation.of(read_grid(dataset.training_cases[0].images[0]))
    return tuple(float(by_file_axis[a]) for a in orientation.order)


def own_spacing(work: Path) -> tuple[float | None, ...]:
    """What our `nnunet` planner chooses if it is not told, along the canonical (z, y, x)."""
    path = work / "renalplan_same" / "preprocessed" / DATASET / "fingerprint.json"
    fingerprint = read_record(path, Fingerprint)
    plan = make_plan(fingerprint, PlanOptions(planner="nnunet"), len(fingerprint.cases))
    planned = plan.stage(CONFIGURATION).spacing
    return tuple(planned[plan.order.index(a)] for a in range(3))


def stored_voxels(out: Path) -> int:
    """Image voxels in all arrays below a folder, whichever program wrote them."""
    images = [p for p in out.rglob("*.b2nd") if not p.name.endswith(("_seg.b2nd", ".labels.b2nd"))]
    return sum(int(np.prod(open_array(path).shape)) for path in images)


def link_dataset(folder: Path, work: Path) -> Path:
    """A folder of a name nnU-Net accepts whose parts are links to the dataset's."""
    target = work / "raw" / DATASET
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for part in ("dataset.json", "imagesTr", "labelsTr"):
        (target / part).symlink_to((folder / part).resolve())
    return target


def warm_up(dataset: Dataset, sides: tuple[Side, ...]) -> None:
    """Bring files and programs into the system's cache, so that the first run has no handicap."""
    for case in dataset.training_cases:
        for path in (*case.images, case.label):
            if path is not None:
                path.read_bytes()
    for side in sides:
        subprocess.run(
            (side.command[0], "--help"),
            env=os.environ | side.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )


# ---------------------------------------------------------------- do both store the same?


def compare_cases(work: Path, nnunet: Path, dataset: Dataset) -> list[dict[str, Any]]:
    """How far our stored cases are from nnU-Net's: the smallest thin- and thick-sliced case.

    We cut off the air around the body and nnU-Net does not, so nnU-Net preprocesses a copy of the
    case that is cut to our box: then both resample the same voxels onto the same grid.
    """
    plan_path = next((work / "renalplan_same" / "preprocessed" / DATASET).glob("*/plan.json"))
    plan, stage = Plan.load(plan_path), plan_path.parent / CONFIGURATION
    chosen: dict[bool, tuple[Case, StoredCase]] = {}
    sizes: dict[bool, int] = {}
    for case in dataset.training_cases:
        stored = read_case(stage, case.id)
        if stored is None:
            raise BenchmarkError(f"renalplan has not stored {case.id}")
        thick = is_thick(read_grid(case.images[0]).spacing, stored.spacing)
        size = int(np.prod(stored.items[0].shape))
        if size < sizes.get(thick, size + 1):
            sizes[thick], chosen[thick] = size, (case, stored)
    return [
        {"thick_slices": thick} | compare_case(work, nnunet, dataset, plan, stage, *pair)
        for thick, pair in sorted(chosen.items())
    ]


def is_thick(*spacings: tuple[float, ...]) -> bool:
    """Whether nnU-Net takes the nearest slice along z: one spacing over three times another."""
    return any(max(spacing) > 3 * min(spacing) for spacing in spacings)


def compare_case(
    work: Path,
    nnunet: Path,
    dataset: Dataset,
    plan: Plan,
    stage: Path,
    case: Case,
    stored: StoredCase,
) -> dict[str, Any]:
    """Compare one case.

    Returns:
        Differences in HU and shares of equal labels, or `{"not_compared": reason}`.
    """
    theirs = json.loads((work / "nnunet_preprocessed" / DATASET / "nnUNetPlans.json").read_text())
    settings = theirs["configurations"][CONFIGURATION]
    if settings["normalization_schemes"][0] != "CTNormalization":
        return {"not_compared": "nnU-Net does not treat the first channel as CT"}
    # along the same axes as ours, whatever the orientation of the files
    theirs |= {"transpose_forward": list(plan.order), "dataset_name": COPY}
    theirs["transpose_backward"] = [int(a) for a in np.argsort(plan.order)]
    settings["spacing"] = list(stored.spacing)
    folder = preprocess_copy(work, nnunet, dataset, case, stored.items[0].box, theirs)
    mine = ItemArrays(stage, stored.items[0], case.id)
    known, other = plan.channels[0].intensities, _nnunet_statistics(theirs)
    their_image = np.asarray(open_array(folder / f"{case.id}.b2nd")[0])
    found = differences(
        np.asarray(mine.image[0], np.float32) * known.std + known.mean,
        their_image * other["std"] + other["mean"],
        np.asarray(mine.labels[0]),
        np.asarray(open_array(folder / f"{case.id}_seg.b2nd")[0]),
        limits=(
            max(known.percentile_00_5, other["percentile_00_5"]),
            min(known.percentile_99_5, other["percentile_99_5"]),
        ),
    )
    return found | {
        "case": case.id,
        "shape": list(stored.items[0].shape),
        "spacing_mm": list(stored.spacing),
    }


def _nnunet_statistics(plans: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = plans["foreground_intensity_properties_per_channel"]["0"]
    return found


def preprocess_copy(
    work: Path, nnunet: Path, dataset: Dataset, case: Case, box: Box, plans: dict[str, Any]
) -> Path:
    """Let nnU-Net preprocess one case cut to a box; returns the folder of its arrays."""
    raw, done = work / "raw" / COPY, work / "nnunet_preprocessed" / COPY
    for folder in (raw, done):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    volume = read_channels(case.images)
    assert case.label is not None, "training cases have labels"
    labels = read_volume(case.label, labels=True).array[0]
    grid = Grid(
        size=box_shape(box)[::-1],
        spacing=volume.spacing[::-1],
        origin=(0.0, 0.0, 0.0),
        direction=tuple(np.eye(3).ravel()),
    )
    place = box_slices(box)
    for number, channel in enumerate(volume.array):
        path = raw / "imagesTr" / f"{case.id}_{number:04d}.nii.gz"
        write_volume(path, np.ascontiguousarray(channel[place]), grid)
    label_path = raw / "labelsTr" / f"{case.id}.nii.gz"
    write_volume(label_path, np.ascontiguousarray(labels[place]), grid)
    description = json.loads((dataset.folder / "dataset.json").read_text())
    description |= {"numTraining": 1, "file_ending": ".nii.gz", "name": COPY}
    description.pop("patients", None)
    for folder in (raw, done):
        (folder / "dataset.json").write_text(json.dumps(description))
    (done / "nnUNetPlans.json").write_text(json.dumps(plans))
    command = (str(nnunet / "nnUNetv2_preprocess"), "-d", "902", "-c", CONFIGURATION, "-np", "1")
    run_command(command, nnunet_environment(work), work / "logs" / "compare.txt")
    identifier = plans["configurations"][CONFIGURATION]["data_identifier"]
    return done / str(identifier)


def differences(
    mine: NDArray, theirs: NDArray, labels: NDArray, their_labels: NDArray, limits: Any
) -> dict[str, Any]:
    """Compare two (z, y, x) images in HU and two label maps away from the border.

    Args:
        mine: Our image, HU.
        theirs: Theirs, HU.
        labels: Our label map.
        their_labels: Theirs; negative where nnU-Net found only zeros.
        limits: HU range that neither side has clipped.
    """
    if mine.shape != theirs.shape or labels.shape != their_labels.shape:
        return {"not_compared": f"shapes differ: {mine.shape} against {theirs.shape}"}
    margins = [min(BORDER_VOXELS, n // 4) for n in mine.shape]
    inner = tuple(slice(m, n - m) for m, n in zip(margins, mine.shape, strict=True))
    off = np.abs(np.clip(mine[inner], *limits) - np.clip(theirs[inner], *limits))
    labels, their_labels = labels[inner], np.maximum(their_labels[inner], 0)
    equal, foreground = labels == their_labels, (labels > 0) | (their_labels > 0)
    return {
        "mean_difference_hu": float(off.mean(dtype=np.float64)),
        "p99_9_difference_hu": float(np.percentile(off, 99.9)),
        "equal_labels": float(equal.mean()),
        "equal_foreground_labels": float(equal[foreground].mean()) if foreground.any() else None,
    }


# ---------------------------------------------------------------- report


def machine_facts(nnunet: Path) -> dict[str, Any]:
    """What the numbers depend on."""
    code = (
        "import json, platform; from importlib.metadata import version as v; "
        "print(json.dumps({n: v(n) for n in ('nnunetv2', 'torch', 'numpy', 'blosc2')}"
        " | {'python': platform.python_version()}))"
    )
    python = nnunet / "python"
    answer = subprocess.run((str(python), "-c", code), capture_output=True, text=True, check=False)
    ours = {name: version(name) for name in ("renalplan", "torch", "numpy", "blosc2")}
    return {
        "cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "renalplan": ours | {"python": platform.python_version()},
        "nnunet": json.loads(answer.stdout) if answer.returncode == 0 else {},
    }


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """Number of cases and their sizes along the files' (z, y, x)."""
    grids = [read_grid(case.images[0]) for case in dataset.training_cases]
    return {
        "cases": len(grids),
        "shapes": [list(grid.shape) for grid in grids],
        "spacings_mm": [[round(s, 4) for s in grid.spacing[::-1]] for grid in grids],
    }


def medians(runs: list[Run]) -> Run:
    """The median of each quantity."""
    values = {
        name: statistics.median(getattr(run, name) for run in runs)
        for name in Run.__dataclass_fields__
    }
    return Run(**values)


def table(runs: dict[str, list[Run]], theirs: str, ours: str) -> str:
    """Medians of each side, and theirs over ours."""
    lines = [
        f"{'':24}{'runs':>6}{'wall s':>10}{'CPU s':>10}{'peak GB':>10}{'output GB':>11}{'Mvoxels':>10}",
    ]
    middle = {name: medians(of) for name, of in runs.items()}
    for name, run in middle.items():
        lines.append(
            f"{name:24}{len(runs[name]):>6}{run.wall_s:>10.1f}{run.cpu_s:>10.1f}"
            f"{run.peak_bytes / 1e9:>10.2f}{run.output_bytes / 1e9:>11.3f}"
            f"{run.voxels / 1e6:>10.1f}"
        )
    a, b = middle[theirs], middle[ours]
    lines.append(
        f"{'nnU-Net / same work':30}{a.wall_s / b.wall_s:>10.2f}{a.cpu_s / b.cpu_s:>10.2f}"
        f"{a.peak_bytes / b.peak_bytes:>10.2f}{a.output_bytes / b.output_bytes:>11.2f}"
        f"{a.voxels / b.voxels:>10.2f}"
    )
    pairs = [x.wall_s / y.wall_s for x, y in zip(runs[theirs], runs[ours], strict=True)]
    lines.append(f"wall ratio of each pair: {', '.join(f'{pair:.2f}' for pair in pairs)}")
    return "\n".join(lines)


def quality_text(quality: dict[str, Any]) -> str:
    """The comparison as lines."""
    if "not_compared" in quality:
        return f"stored arrays were not compared: {quality['not_compared']}"
    shape = " x ".join(str(n) for n in quality["shape"])
    spacing = " x ".join(f"{s:.4g}" for s in quality["spacing_mm"])
    foreground = quality["equal_foreground_labels"]
    share = "none there" if foreground is None else f"{100 * foreground:.4f} %"
    slices = (
        "thick slices: nnU-Net takes the nearest, we interpolate"
        if quality["thick_slices"]
        else "thin slices"
    )
    return (
        f"same case stored by both ({quality['case']}, {shape} at {spacing} mm; {slices}), "
        f"{BORDER_VOXELS} voxels of border left out:\n"
        f"  difference: mean {quality['mean_difference_hu']:.3f} HU, "
        f"99.9th percentile {quality['p99_9_difference_hu']:.3f} HU\n"
        f"  equal labels: {100 * quality['equal_labels']:.4f} % of all voxels, "
        f"of voxels that either side calls foreground: {share}"
    )


def spacing_text(theirs: tuple[float, ...], own: tuple[float | None, ...]) -> str:
    """The spacing both sides used, and a warning if our planner would have chosen another."""

    def listed(values: tuple[float | None, ...]) -> str:
        return " x ".join("own" if s is None else f"{s:.4g}" for s in values)

    text = f"target spacing (z, y, x) of both: {listed(theirs)} mm, as nnU-Net planned it"
    if None in own or not np.allclose(np.asarray(own, float), theirs, rtol=1e-3):
        text += f"\nNOTE: left to itself, renalplan's planner nnunet chooses {listed(own)} mm here"
    return text


def facts_text(machine: dict[str, Any], data: dict[str, Any], workers: int) -> str:
    """Machine, versions and dataset as lines."""

    def listed(versions: dict[str, str]) -> str:
        return ", ".join(f"{name} {number}" for name, number in versions.items())

    shapes = ", ".join("x".join(str(n) for n in shape) for shape in data["shapes"][:12])
    return (
        f"machine: {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}; "
        f"{workers} workers\n"
        f"  {listed(machine['renalplan'])}\n  {listed(machine['nnunet'])}\n"
        f"dataset: {data['cases']} cases of {shapes} voxels"
    )


# ---------------------------------------------------------------- command line


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", type=Path, help="dataset folder in nnU-Net's raw layout")
    source.add_argument("--cases", type=int, help="make a synthetic dataset of so many cases")
    parser.add_argument(
        "--size", type=int, nargs=3, metavar=("Z", "Y", "X"), help="of synthetic cases, voxels"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic dataset")
    parser.add_argument("--nnunet", type=Path, help="bin folder of nnU-Net's virtual environment")
    parser.add_argument("--workers", type=int, default=2, help="processes of each side")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side")
    parser.add_argument("--work", type=Path, help="where to work and keep everything")
    parser.add_argument("--json", type=Path, help="also write every number here")
    given = parser.parse_args(arguments)
    if min(given.repeats, given.workers) < 1:
        parser.error("--repeats and --workers must be at least 1")
    return given


def find_nnunet(given: Path | None) -> Path | None:
    """The bin folder with nnU-Net's commands: the given one, else the first on PATH."""
    if given is None:
        found = shutil.which(NNUNET_COMMAND)
        return Path(found).parent if found else None
    folder = given.expanduser().absolute()
    return folder if (folder / NNUNET_COMMAND).is_file() else None


def benchmark(given: argparse.Namespace, nnunet: Path, work: Path) -> None:
    """Make or link the dataset, run both sides in turn, print and write what came out."""
    folder = given.dataset
    if folder is None:
        folder = work / "synthetic"
        shutil.rmtree(folder, ignore_errors=True)
        size = tuple(given.size) if given.size else None
        make_phantom_dataset(
            folder, cases=given.cases, seed=given.seed, size=size, workers=given.workers
        )
    dataset = Dataset.open(link_dataset(folder, work))
    sides = make_sides(work, nnunet, given.workers)
    theirs, ours, default = sides
    (work / "logs").mkdir(exist_ok=True)
    warm_up(dataset, sides)
    plan = [(side, n) for n in range(given.repeats) for side in (theirs, ours)] + [(default, 0)]
    runs: dict[str, list[Run]] = {side.name: [] for side in sides}
    for side, number in plan:
        if side is ours:
            spacing = [f"{s!r}" for s in nnunet_spacing(work, dataset)]
            side = replace(side, command=(*side.command, "--spacing", *spacing))
        run = measure(side, work / "logs" / f"{side.out.name}_{number}.txt")
        runs[side.name].append(run)
        print(f"{side.name}: {run.wall_s:.1f} s, {run.peak_bytes / 1e9:.2f} GB", file=sys.stderr)
    quality = compare_cases(work, nnunet, dataset)
    machine, data = machine_facts(nnunet), dataset_facts(dataset)
    print(facts_text(machine, data, given.workers))
    print(table(runs, theirs.name, ours.name))
    print(spacing_text(nnunet_spacing(work, dataset), own_spacing(work)))
    print("\n".join(quality_text(of) for of in quality))
    if given.json is not None:
        everything = {
            "machine": machine,
            "dataset": data,
            "workers": given.workers,
            "runs": {name: [asdict(run) for run in of] for name, of in runs.items()},
            "spacing_mm": {
                "nnunet": nnunet_spacing(work, dataset),
                "renalplan_left_to_itself": own_spacing(work),
            },
            "quality": quality,
        }
        given.json.write_text(json.dumps(everything, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    nnunet = find_nnunet(given.nnunet)
    if nnunet is None:
        print(HOW_TO_INSTALL, file=sys.stderr)
        return 2
    try:
        if given.work is not None:
            given.work.mkdir(parents=True, exist_ok=True)
            benchmark(given, nnunet, given.work.absolute())
        else:
            with tempfile.TemporaryDirectory(prefix="renalplan_benchmark_") as work:
                benchmark(given, nnunet, Path(work))
    except (BenchmarkError, RenalplanError) as problem:
        print(f"preprocess.py: {problem}", file=sys.stderr)
        return getattr(problem, "exit_status", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
