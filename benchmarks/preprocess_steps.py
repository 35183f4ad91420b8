"""Where preprocessing's time goes: one case, step by step, beside what moving the bytes alone would take.

    python benchmarks/preprocess_steps.py DATASET --workspace WORKSPACE

The dataset must have been preprocessed into the workspace; its plan is used. Everything runs in this
process with one thread, as in a worker. The floor of a step is what it reads and writes at least, at
the speed at which this machine copies an array.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from renalplan.case_labels import read_labels
from renalplan.dataset import Case, Dataset
from renalplan.geometry import box_shape, box_slices
from renalplan.images import read_channels
from renalplan.normalisation import normalise, rescalings
from renalplan.parallel import limit_threads
from renalplan.plan import Plan, StagePlan
from renalplan.planners.fingerprint import measure_volume
from renalplan.preprocessing import body_box, prepare_labels, stage_shape
from renalplan.resampling import resample_image
from renalplan.store import write_array, write_labels
from renalplan.workspace import Workspace

COPIED_BYTES = 1 << 28


@dataclass(frozen=True)
class Step:
    """One step: its name, what kind of work it is, how often a case needs it, and the work itself.

    Attributes:
        moved: Bytes that are read and written at least.
    """

    name: str
    kind: str
    times: int
    moved: int
    run: Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", help="folder, name or number")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--planner", default="nnunet")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--case", help="its id; the first one by default")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    limit_threads(1)
    workspace = Workspace.find(given.workspace)
    dataset = Dataset.open(workspace.dataset_folder(given.dataset))
    folder = workspace.plan_folder(dataset.name, given.planner)
    plan = Plan.load(folder / "plan.json")
    stage = plan.stage(given.configuration)
    cases = {case.id: case for case in dataset.training_cases}
    case = cases[given.case] if given.case else dataset.training_cases[0]
    speed = copying_speed(given.repeats)
    with tempfile.TemporaryDirectory() as target:
        steps = steps_of(case, dataset, plan, stage, Path(target))
        seconds = [median_s(step.run, given.repeats) for step in steps]
    print(f"{case.id}; this machine copies {speed / 1e9:.1f} GB/s (read and written) on one core\n")
    print(table(steps, seconds, speed))


def steps_of(
    case: Case, dataset: Dataset, plan: Plan, stage: StagePlan, target: Path
) -> Sequence[Step]:
    """A case's steps, each on what the one before it made."""
    volume = read_channels(case.images)
    labels = read_labels(case, volume)
    assert labels is not None, "training cases have labels"
    whole, box = volume.array, body_box(volume.array)
    rules = rescalings(whole, plan.channels)
    cut = plan.to_plan(normalise(whole[(..., *box_slices(box))], rules))
    shape = stage_shape(plan, stage, box_shape(box), volume.spacing)
    own: Any = tuple(volume.spacing[a] for a in plan.order)
    image = resample_image(cut, shape, own)
    half = image.astype(np.float16)
    made = prepare_labels(labels, box, volume.spacing, plan, stage)
    files = sum(path.stat().st_size for path in case.images)
    return [
        Step("image: read, decompress, turn", "decompression", 2, files + whole.nbytes,
             lambda: read_channels(case.images)),
        Step("labels: the same", "decompression", 2, labels.nbytes,
             lambda: read_labels(case, volume)),
        Step("fingerprint", "arithmetic", 1, whole.nbytes + labels.nbytes,
             lambda: measure_volume(case.id, volume, labels, dataset.scheme)),
        Step("body's box, cut, normalise", "arithmetic", 1, whole.nbytes + cut.nbytes,
             lambda: normalise(whole[(..., *box_slices(body_box(whole)))], rules)),
        Step("resample the image", "arithmetic", 1, cut.nbytes + image.nbytes,
             lambda: resample_image(cut, shape, own)),
        Step("resample the labels", "arithmetic", 1, labels.nbytes + made.nbytes,
             lambda: prepare_labels(labels, box, volume.spacing, plan, stage)),
        Step("to half precision", "arithmetic", 1, image.nbytes + half.nbytes,
             lambda: image.astype(np.float16)),
        Step("compress and write the image", "compression", 1, half.nbytes,
             lambda: write_array(target / "image.b2nd", half)),
        Step("the same of labels, places", "compression", 1, made.nbytes,
             lambda: write_labels(target, "case", made, dataset.scheme)),
    ]  # fmt: skip


def median_s(run: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, after one that is not counted."""
    run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def copying_speed(repeats: int) -> float:
    """Bytes a second, read and written together, of copying an array far larger than the caches."""
    source = np.ones(COPIED_BYTES, np.uint8)
    target = np.empty_like(source)
    return 2 * COPIED_BYTES / median_s(lambda: np.copyto(target, source), repeats)


def table(steps: Sequence[Step], seconds: Sequence[float], speed: float) -> str:
    """Markdown: each step's seconds a case, its floor, and the shares of the kinds of work."""
    lines = ["| step | times | s | floor, s |", "|---|---|---|---|"]
    total, least, kinds = 0.0, 0.0, dict.fromkeys((step.kind for step in steps), 0.0)
    for step, once in zip(steps, seconds, strict=True):
        spent, floor = step.times * once, step.times * step.moved / speed
        total, least, kinds[step.kind] = total + spent, least + floor, kinds[step.kind] + spent
        lines.append(f"| {step.name} | {step.times} | {spent:.2f} | {floor:.3f} |")
    lines.append(f"| all | | {total:.2f} | {least:.2f} |")
    shares = ", ".join(f"{kind} {100 * spent / total:.0f} %" for kind, spent in kinds.items())
    return "\n".join([*lines, "", f"{shares}; {total / least:.0f} times the floor"])


if __name__ == "__main__":
    main()
