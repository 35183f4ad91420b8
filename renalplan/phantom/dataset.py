"""Writes phantoms as a dataset folder: dataset.json, imagesTr, labelsTr, imagesTs, imagesUn, boxes.

The folder has nnU-Net's raw layout. `phantom_truth.json` beside it keeps what is known exactly, and
dataset.json, written last, says that the folder is complete.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from renalplan import files
from renalplan.boxes import BOXES, COLUMNS
from renalplan.errors import RenalplanError, UsageError
from renalplan.executors import open_executor
from renalplan.geometry import Grid, Orientation, Shape, Spacing
from renalplan.images import ENDINGS, write_volume
from renalplan.locks import hold
from renalplan.parallel import map_cases, of_case
from renalplan.phantom.anatomy import SOLITARY_SHARE
from renalplan.phantom.make import make_case
from renalplan.phantom.masks import case_name, dress_mask, find_masks
from renalplan.phantom.scanner import check_size
from renalplan.phantom.tasks import Task, get_task
from renalplan.phantom.unfinished import Made, Unfinished, is_unfinished


@dataclass(frozen=True, kw_only=True)
class Job:
    """One case to make and where it belongs.

    Attributes:
        name: Case id.
        index: Number of the case in the seed's sequence.
        part: "Tr", "Ts" or "Un".
        mask: Real label map to dress, if there is one.
    """

    name: str
    index: int
    part: str
    mask: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all cases of a data set share."""

    out: Path
    seed: int
    task: str
    size: Shape | None
    spacing: Spacing | None
    file_ending: str
    single_kidney_share: float


def make_phantom_dataset(
    out: Path,
    *,
    cases: int,
    seed: int = 0,
    task: str = "kidney_tumor",
    size: Shape | None = None,
    spacing: Spacing | None = None,
    test_cases: int = 0,
    unlabelled_cases: int = 0,
    single_kidney_share: float | None = None,
    from_masks: Path | None = None,
    file_ending: str = ".nii.gz",
    workers: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Make a data set of phantoms; case i depends on the seed and i only.

    Args:
        out: Folder to make; it must not hold a data set yet, but one that an ended run began is continued.
        cases: Training cases.
        seed: Other seeds, other patients.
        task: "kidney_tumor", "artery", "compartments" or "boxes".
        size: (z, y, x) voxels of each image; None: as scanners do, 512 x 512 and many slices.
        spacing: (z, y, x) mm; None: follows from `size`, or drawn case by case.
        test_cases: Cases in imagesTs and labelsTs; their numbers follow the training cases'.
        unlabelled_cases: Cases in imagesUn, after the test cases.
        single_kidney_share: Share of the patients, on average, that have one kidney, from 0 to 1;
            None: one in twenty.
        from_masks: Folder of real label maps (1 kidney, 2 tumor) to dress with simulated HU.
        file_ending: Image format.
        workers: Processes; 0 works in this one. The result is the same.
        progress: Called with one sentence per finished case.

    Returns:
        `out`.

    Raises:
        UsageError: an argument is impossible, `out` holds a data set or the beginning of another one, or
            another run fills it.
        WorkerError: a worker process died.
    """
    kind = get_task(task)
    _check_counts(cases, test_cases, unlabelled_cases, seed, workers)
    check_size(size, spacing)
    if single_kidney_share is not None and not 0 <= single_kidney_share <= 1:
        raise UsageError(
            f"The share of patients with a single kidney lies between 0 and 1, got "
            f"{single_kidney_share}."
        )
    if file_ending not in ENDINGS:
        raise UsageError(f"Unknown file ending {file_ending!r}; possible are {', '.join(ENDINGS)}.")
    begun = ((out / name).exists() for name in ("dataset.json", "imagesTr"))
    if any(begun) and not is_unfinished(out):
        raise UsageError(f"{out} already holds a data set; choose another folder or delete it.")
    jobs = _numbered_jobs(cases, test_cases, unlabelled_cases)
    if from_masks is not None:
        own = (size, spacing, single_kidney_share)
        if task != "kidney_tumor" or any(value is not None for value in own):
            raise UsageError(
                "Dressing real masks works for the task kidney_tumor, without size, spacing and "
                "share of single kidneys: the masks have their own."
            )
        jobs = _mask_jobs(from_masks, jobs)
    recipe = Recipe(
        out=out,
        seed=seed,
        task=task,
        size=size,
        spacing=spacing,
        file_ending=file_ending,
        single_kidney_share=SOLITARY_SHARE if single_kidney_share is None else single_kidney_share,
    )
    with (
        hold(out, "phantom", f"{out} is being filled", ", or choose another folder"),
        Unfinished(out, _asked(recipe, jobs)) as unfinished,
    ):
        _write_tables(recipe, kind, jobs, _make_all(recipe, jobs, unfinished, workers, progress))
    return out


def _check_counts(
    cases: int, test_cases: int, unlabelled_cases: int, seed: int, workers: int
) -> None:
    if cases < 1:
        raise UsageError(f"A phantom data set needs at least 1 case, got {cases}.")
    if min(test_cases, unlabelled_cases) < 0:
        raise UsageError("Numbers of test and unlabelled cases cannot be negative.")
    if seed < 0:
        raise UsageError(f"The seed of a phantom is 0 or more, got {seed}.")
    if workers < 0:
        raise UsageError(
            f"--workers {workers} is not possible; 0 makes them in this process alone."
        )


def _numbered_jobs(cases: int, test_cases: int, unlabelled_cases: int) -> list[Job]:
    parts = ["Tr"] * cases + ["Ts"] * test_cases + ["Un"] * unlabelled_cases
    return [Job(name=f"case_{i:04d}", index=i, part=part) for i, part in enumerate(parts)]


def _mask_jobs(folder: Path, numbered: list[Job]) -> list[Job]:
    masks = find_masks(folder)
    if len(masks) < len(numbered):
        raise UsageError(
            f"{folder} holds {len(masks)} label maps, but {len(numbered)} cases are asked for."
        )
    return [
        Job(name=case_name(mask), index=job.index, part=job.part, mask=mask)
        for mask, job in zip(masks, numbered, strict=False)
    ]


def _asked(recipe: Recipe, jobs: list[Job]) -> Any:
    """All that the files depend on, as JSON values; the folder may have been moved."""
    cases = [[job.name, job.part, _state(job.mask)] for job in jobs]
    return [{name: value for name, value in vars(recipe).items() if name != "out"}, cases]


def _state(path: Path | None) -> tuple[int, int] | None:
    """Size and time of change; what else is wrong with a file is for its reader to say."""
    try:
        state = path.stat() if path else None
    except OSError:
        return None
    return (state.st_size, state.st_mtime_ns) if state else None


def _make_all(
    recipe: Recipe,
    jobs: list[Job],
    unfinished: Unfinished,
    workers: int,
    progress: Callable[[str], None] | None,
) -> dict[str, Made]:
    """Make the cases that are not there, here or in worker processes; the first error stops everything."""
    results = {job.name: unfinished.done[job.name] for job in jobs if job.name in unfinished.done}
    rest = [job for job in jobs if job.name not in results]
    with open_executor(min(workers, len(rest))) as executor:
        for job, result in map_cases(make_and_write, rest, recipe, executor=executor):
            if isinstance(result, RenalplanError):
                raise of_case(job.name, result)
            unfinished.keep(job.name, result)
            results[job.name] = result
            if progress is not None:
                progress(f"{job.name} written ({len(results)} of {len(jobs)})")
    return results


def make_and_write(job: Job, recipe: Recipe) -> Made:
    """Make one case and write its files."""
    if job.mask is None:
        case = make_case(
            recipe.seed,
            job.index,
            task=recipe.task,
            size=recipe.size,
            spacing=recipe.spacing,
            single_kidney_share=recipe.single_kidney_share,
        )
        truth = asdict(case.truth)
        images, labels, grid = case.images, case.labels, case.grid
    else:
        dressed = dress_mask(job.mask, seed=recipe.seed, index=job.index)
        truth = dressed.truth
        images, labels, grid = dressed.images, dressed.labels, dressed.grid
    out, ending = recipe.out, recipe.file_ending
    for channel, image in enumerate(images.values()):
        write_volume(out / f"images{job.part}" / f"{job.name}_{channel:04d}{ending}", image, grid)
    if job.part != "Un":
        write_volume(out / f"labels{job.part}" / f"{job.name}{ending}", labels, grid)
    boxes = tumor_boxes(labels, grid) if get_task(recipe.task).boxes else []
    return Made(phases=tuple(images), truth=truth, boxes=tuple(map(tuple, boxes)))


def tumor_boxes(labels: NDArray[np.uint8], grid: Grid) -> list[list[int]]:
    """Tight half-open boxes (z0, y0, x0, z1, y1, x1) of the components of label 1.

    They count in the file's own array order, as numpy sees it when it reads the file.
    """
    stored = Orientation.of(grid).undo(labels) == 1
    components, _ = ndimage.label(stored, np.ones((3, 3, 3)))
    boxes = []
    for part in ndimage.find_objects(components):
        boxes.append([int(s.start) for s in part] + [int(s.stop) for s in part])
    return boxes


def _write_tables(recipe: Recipe, kind: Task, jobs: list[Job], results: dict[str, Made]) -> None:
    training = [job for job in jobs if job.part == "Tr"]
    if kind.boxes:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        for job in training:
            writer.writerows([job.name, 1, *box] for box in results[job.name].boxes)
        files.write_text(recipe.out / BOXES, table.getvalue())
    files.write_json(
        recipe.out / "phantom_truth.json",
        {job.name: {"phases": results[job.name].phases, **results[job.name].truth} for job in jobs},
    )
    files.write_json(
        recipe.out / "dataset.json",
        {
            "channel_names": {str(i): name for i, name in enumerate(kind.channels)},
            "labels": {"background": 0, **kind.labels},
            "numTraining": len(training),
            "file_ending": recipe.file_ending,
            "name": recipe.out.name,
            "description": kind.description,
            "patients": {job.name: f"phantom_{recipe.seed}_{job.name}" for job in jobs},
        },
    )
