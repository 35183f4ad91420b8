"""Time and memory of one case's surface metrics, beside MedPy, MONAI and DeepMind's surface-distance.

    python benchmarks/metrics.py                                     # 300 x 512 x 512
    python benchmarks/metrics.py --size 60 128 128 --programs renalplan medpy

The case is a phantom's kidneys, tumors and renal arteries; the prediction is the same, bent by a smooth
random field of some voxels and with a stray piece far away. Every program runs in a process of its own on
the same masks of the whole scan and computes what it has, as its users call it: MedPy hd, hd95, assd and
asd both ways (each begins anew); MONAI Hausdorff, its 95th percentile, the average symmetric distance
and surface Dice; surface-distance and renalplan all of these from one pass. The last line is all that
renalplan_evaluate computes of the case. The table has seconds, the ratio to ours, the peak of memory
above the masks, and whether the numbers that have one definition agree.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

GB = 1024**3
TOLERANCE_MM = 1.0
BEND_VOXELS = 2.0  # standard deviation of the prediction's displacement
Numbers = dict[str, float]  # hd, hd95, eq4, assd, nsd: what a program has
NAMES = {"kidney": 1, "tumor": 2, "artery": 3}


def main() -> None:
    """Make the case, measure every program in a process of its own, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=[300, 512, 512], metavar="VOXELS")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--repeats", type=int, default=1, help="the quickest counts")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.case, given.repeats)))
        return
    environment = os.environ | ({"OMP_NUM_THREADS": str(given.threads)} if given.threads else {})
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder) / "case.npz"
        make_case(case, tuple(given.size))
        results: dict[str, Any] = {}
        for program in [*given.programs, "everything"]:
            command = [sys.executable, __file__, "--one", program, "--case", str(case)]
            command += ["--repeats", str(given.repeats)]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
                print(f"{program} failed: {reason}")
            else:
                results[program] = json.loads(done.stdout.splitlines()[-1])
    show(results, given.size)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


def make_case(path: Path, size: tuple[int, ...]) -> None:
    """Write reference, prediction and spacing."""
    from renalplan.phantom.make import make_case as make_phantom

    phantom = make_phantom(3, 0, size=size)  # type: ignore[arg-type]
    reference = phantom.labels.copy()
    reference[phantom.structures["artery"]] = NAMES["artery"]
    coarse = tuple(max(2, n // 16) for n in size)
    random = np.random.default_rng(0)
    places = list(np.ogrid[tuple(slice(0, n) for n in size)])
    prediction = np.zeros_like(reference)
    fields = []
    for _ in range(3):
        field = gaussian_filter(random.normal(size=coarse), 1)
        fields.append((BEND_VOXELS / field.std() * field).astype(np.float32))
    factors = [n / c for n, c in zip(size, coarse, strict=True)]
    moved = [zoom(field, factors, order=1) for field in fields]
    for plane in range(size[0]):  # plane by plane: coordinates of all voxels would take gigabytes
        at = [np.broadcast_to(p[plane] if a == 0 else p[0], size[1:]) for a, p in enumerate(places)]
        bent = [place + move[plane] for place, move in zip(at, moved, strict=True)]
        prediction[plane] = map_coordinates(reference, bent, order=0, mode="nearest")
    for value in NAMES.values():
        prediction[2 : 2 + size[0] // 30, 5 + 12 * value : 11 + 12 * value, 5:11] = value
    np.savez(path, reference=reference, prediction=prediction, spacing=phantom.spacing)


def measure(program: str, case: Path, repeats: int) -> dict[str, Any]:
    """Seconds and numbers of each structure, and bytes above the masks at the peak."""
    with np.load(case) as arrays:
        reference, prediction = arrays["reference"], arrays["prediction"]
        spacing = tuple(float(s) for s in arrays["spacing"])
    warnings.simplefilter("ignore")
    if program == "everything":
        return measure_everything(reference, prediction, spacing, repeats)
    run = PROGRAMS[program]()
    masks = {n: (reference == value, prediction == value) for n, value in NAMES.items()}
    small = np.zeros((8, 8, 8), bool)
    small[2:5, 2:5, 2:5] = True
    run(small, np.roll(small, 1, 0), spacing)  # what is done only once
    before = peak_bytes()
    seconds, numbers = {}, {}
    for name, (truth, found) in masks.items():
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            numbers[name] = run(truth, found, spacing)
            times.append(time.perf_counter() - start)
        seconds[name] = min(times)
    return {"seconds": seconds, "numbers": numbers, "bytes": peak_bytes() - before}


def measure_everything(
    reference: NDArray, prediction: NDArray, spacing: tuple[float, ...], repeats: int
) -> dict[str, Any]:
    """All of a row of per_case.csv, for all structures together."""
    from renalplan.evaluation.cases import score_labels
    from renalplan.labels import LabelScheme

    scheme = LabelScheme(
        names=("background", *NAMES), values=((0,), *((value,) for value in NAMES.values()))
    )
    small = np.ones((4, 4, 4), np.uint8)
    score_labels("", small, small, (1.0, 1.0, 1.0), scheme)
    before, times = peak_bytes(), []
    for _ in range(repeats):
        start = time.perf_counter()
        score_labels("case", reference, prediction, spacing, scheme)  # type: ignore[arg-type]
        times.append(time.perf_counter() - start)
    return {"seconds": {"all": min(times)}, "numbers": {}, "bytes": peak_bytes() - before}


def ours() -> Callable[..., Numbers]:
    from renalplan.evaluation.surface import surface_distances
    from renalplan.evaluation.surfels import surface_dice

    def run(truth: NDArray, found: NDArray, spacing: tuple[float, float, float]) -> Numbers:
        all_of_them = surface_distances(truth, found, spacing)
        return {
            "hd": all_of_them.hausdorff_mm,
            "hd95": all_of_them.hd95_mm,
            "eq4": all_of_them.average_hausdorff_mm,
            "assd": all_of_them.assd_mm,
            "nsd": surface_dice(truth, found, spacing, TOLERANCE_MM),
        }

    return run


def medpy() -> Callable[..., Numbers]:
    from medpy.metric import binary

    def run(truth: NDArray, found: NDArray, spacing: tuple[float, ...]) -> Numbers:
        binary.hd95(found, truth, spacing)  # of both directions together: another number than ours
        there, back = binary.asd(found, truth, spacing), binary.asd(truth, found, spacing)
        return {
            "hd": binary.hd(found, truth, spacing),
            "assd": binary.assd(found, truth, spacing),
            "eq4": max(there, back),
        }

    return run


def monai() -> Callable[..., Numbers]:
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    def run(truth: NDArray, found: NDArray, spacing: tuple[float, ...]) -> Numbers:
        masks = [torch.from_numpy(mask[None, None]) for mask in (found, truth)]
        how: dict[str, Any] = {"include_background": True, "spacing": spacing}
        hd = compute_hausdorff_distance(*masks, **how)
        hd95 = compute_hausdorff_distance(*masks, percentile=95, **how)
        assd = compute_average_surface_distance(*masks, symmetric=True, **how)
        nsd = compute_surface_dice(*masks, [TOLERANCE_MM], use_subvoxels=True, **how)
        return {"hd": hd.item(), "hd95": hd95.item(), "assd": assd.item(), "nsd": nsd.item()}

    return run


def deepmind() -> Callable[..., Numbers]:
    import surface_distance as program

    def run(truth: NDArray, found: NDArray, spacing: tuple[float, ...]) -> Numbers:
        distances = program.compute_surface_distances(truth, found, spacing)
        # its distances are between corners of voxels and weighted by area: other numbers than ours
        program.compute_robust_hausdorff(distances, 100)
        program.compute_robust_hausdorff(distances, 95)
        program.compute_average_surface_distance(distances)
        return {"nsd": program.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM)}

    return run


PROGRAMS = {"renalplan": ours, "medpy": medpy, "monai": monai, "surface-distance": deepmind}


def show(results: dict[str, Any], size: list[int]) -> None:
    """The table in Markdown."""
    print(f"one case, {' x '.join(map(str, size))} voxels, {os.cpu_count()} cores\n")
    print(
        f"| program | {' | '.join(f'{n}, s' for n in NAMES)} | together | ratio | peak | agrees |"
    )
    print("|---|" + "---|" * (len(NAMES) + 4))
    mine = results.get("renalplan")
    for program, found in results.items():
        total = sum(found["seconds"].values())
        cells = [f"{found['seconds'][n]:.2f}" if n in found["seconds"] else "" for n in NAMES]
        ratio = f"{total / sum(mine['seconds'].values()):.1f}" if mine else ""
        cells += [f"{total:.2f}", ratio, f"{found['bytes'] / GB:.2f} GB", agreement(found, mine)]
        print(f"| {program} | {' | '.join(cells)} |")


def agreement(found: dict[str, Any], mine: dict[str, Any] | None) -> str:
    """Which numbers are ours too, to 1e-5 (MONAI computes in single precision)."""
    if mine is None or not found["numbers"] or found is mine:
        return ""
    shared = [key for key in next(iter(found["numbers"].values())) if key in numbers_of(mine)]
    wrong = [
        f"{name} {key}"
        for name, numbers in found["numbers"].items()
        for key in shared
        if not math.isclose(numbers[key], mine["numbers"][name][key], rel_tol=1e-5, abs_tol=1e-6)
    ]
    return f"not: {', '.join(wrong)}" if wrong else ", ".join(shared)


def numbers_of(mine: dict[str, Any]) -> Numbers:
    return next(iter(mine["numbers"].values()))


def peak_bytes() -> int:
    """Most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
