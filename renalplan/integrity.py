"""Every problem of a dataset at once, a line each; and the quick subset that runs before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from renalplan.boxes import BOXES, outside
from renalplan.dataset import UNLABELLED, Case, Dataset, find_images
from renalplan.errors import DatasetError, PlanError, RenalplanError
from renalplan.executors import open_executor
from renalplan.geometry import Grid
from renalplan.images import image_ending, read_grid, read_volume
from renalplan.labels import LabelScheme, values_in
from renalplan.nifti import is_truncated
from renalplan.parallel import map_cases, of_case

Report = Callable[[str], None]


def check_dataset(
    dataset: Dataset | str | Path,
    *,
    workers: int | None = 0,
    dask: str | None = None,
    on_case: Report | None = None,
) -> list[str]:
    """Read everything and list what is wrong.

    Args:
        dataset: The dataset, or its folder.
        workers: Processes to read with; 0 reads here, None takes one a core.
        dask: Address of a dask scheduler whose workers read instead; `workers` must be None.
        on_case: Called with each case id when it has been read.

    Returns:
        One sentence a problem, in the order of cases; empty if the dataset is sound.

    Raises:
        UsageError: the cluster cannot do it.
    """
    if not isinstance(dataset, Dataset):
        dataset = Dataset.open(Path(dataset))
    if dask is not None:
        dataset = Dataset.open(dataset.folder.absolute())
    problems, cases = list_cases(dataset)
    found: dict[str, list[str]] = {}
    seen = (dataset.folder / "dataset.json", *(image for c in cases[:1] for image in c.images))
    with open_executor(workers, dask, cases=len(cases), reads=seen) as executor:
        units = in_hounsfield(dataset)
        for case, result in map_cases(check_case, cases, dataset.scheme, units, executor=executor):
            found[case.id] = (
                [str(of_case(case.id, result))] if isinstance(result, RenalplanError) else result
            )
            if on_case:
                on_case(case.id)
    return problems + [line for case in cases for line in found.get(case.id, [])]


def quick_check(dataset: Dataset) -> None:
    """Headers and completeness of all files, in seconds, before any long work starts.

    Raises:
        DatasetError: the first problem, and how many more there are.
    """
    problems, cases = list_cases(dataset)
    for case in cases:
        found, grids = _grid_problems(case)
        # first what may be why grids differ
        problems += [*(_truncated(path) for path in grids if is_truncated(path)), *found]
    if not problems:
        return
    more = ""
    if len(problems) > 1:
        more = f" ({len(problems) - 1} more problems: renalplan_check lists them all)"
    raise DatasetError(problems[0] + more)


def list_cases(dataset: Dataset) -> tuple[list[str], list[Case]]:
    """Problems of naming and completeness, and the cases that can be looked into.

    Unlabelled cases come last.
    """
    folder, labels = dataset.folder / "imagesTr", dataset.folder / "labelsTr"
    ending = dataset.description.file_ending
    if not folder.is_dir():
        return [f"{folder} is missing; training images belong there."], []
    problems = _stray_files(folder, ending)
    try:
        found = find_images(folder, ending)
    except DatasetError as problem:
        return [*problems, str(problem)], []
    if not found:
        problems.append(f"{folder} has no images that end in _0000{ending}.")
    try:
        boxes = dataset.boxes(found)
    except DatasetError as problem:
        problems.append(str(problem))
        boxes = {}
    cases = []
    for case_id, channels in found.items():
        try:
            images = dataset.complete(case_id, channels, folder)
        except DatasetError as problem:
            problems.append(str(problem))
            images = tuple(channels[i] for i in sorted(channels))
        label: Path | None = None
        try:
            label = dataset.label_of(case_id, boxes)
        except DatasetError as problem:
            problems.append(str(problem))
        rows = boxes.get(case_id, ())
        cases.append(
            Case(
                id=case_id, images=images, label=label, boxes=rows, boxes_in=dataset.folder / BOXES
            )
        )
    if labels.is_dir():
        lonely = [
            p
            for p in sorted(labels.iterdir())
            if p.name.endswith(ending) and p.name.removesuffix(ending) not in found
        ]
        problems += [f"{path} has no image in {folder.name}." for path in lonely]
    stated = dataset.description.numTraining
    if stated is not None and stated != len(found):
        problems.append(
            f"{dataset.folder / 'dataset.json'}: numTraining is {stated}, "
            f"{folder} holds {len(found)} cases."
        )
    more, unlabelled = _unlabelled(dataset, set(found))
    return problems + more, cases + unlabelled


def _unlabelled(dataset: Dataset, labelled: set[str]) -> tuple[list[str], list[Case]]:
    """The same for imagesUn, which there need not be."""
    folder, ending = dataset.folder / UNLABELLED, dataset.description.file_ending
    if not folder.is_dir():
        return [], []
    problems = _stray_files(folder, ending)
    try:
        found = find_images(folder, ending)
    except DatasetError as problem:
        return [*problems, str(problem)], []
    used = {path for channels in found.values() for path in channels.values()}
    problems += [
        f"{path} is not used: its name does not end in _0000{ending}."
        for path in sorted(folder.iterdir())
        if path.name.endswith(ending) and path not in used and not path.name.startswith(".")
    ]
    problems += [
        f"{folder} and imagesTr both have {case_id}; remove or rename one."
        for case_id in sorted(found.keys() & labelled)
    ]
    cases = []
    for case_id, channels in found.items():
        try:
            cases.append(Case(id=case_id, images=dataset.complete(case_id, channels, folder)))
        except DatasetError as problem:
            problems.append(str(problem))
    return problems, cases


def in_hounsfield(dataset: Dataset) -> tuple[bool, ...]:
    """Which channels are CT by their names."""
    from renalplan.planners.channels import normalisation

    found = []
    for name in dataset.description.channels:
        try:
            found.append(normalisation(name)[0] == "ct")
        except PlanError:  # planning says so
            found.append(False)
    return tuple(found)


def check_case(case: Case, scheme: LabelScheme, units: tuple[bool, ...] = ()) -> list[str]:
    """Read one case's files whole and list what is wrong with them.

    Args:
        case: Its files.
        scheme: What its labels may be.
        units: Which channels hold HU.
    """
    problems, grids = _grid_problems(case)
    for channel, path in enumerate(case.images):
        if path not in grids:
            continue
        try:
            volume = read_volume(path)
        except DatasetError as problem:
            problems.append(str(problem))
            continue
        low, high = float(volume.array.min()), float(volume.array.max())
        if low == high:
            problems.append(f"{path} is empty: every voxel is {low:g}.")
        elif low >= 0 and channel < len(units) and units[channel]:
            problems.append(
                f"{path} is CT without a value below 0 HU (air is -1000, fat -100): it is {low:g} to "
                f"{high:g}; add the rescale intercept, which is mostly -1024."
            )
    if case.label is not None and case.label in grids:
        try:
            labels = read_volume(case.label, labels=True).array[0]
        except DatasetError as problem:
            return [*problems, str(problem)]
        values = values_in(labels)
        if unknown := sorted(set(values) - set(scheme.all_values)):
            problems.append(
                f"{case.label} holds label values {unknown} that dataset.json does not declare "
                f"(it declares {list(scheme.all_values)})."
            )
        if not scheme.foreground_mask(labels).any():
            problems.append(f"{case.label} is empty: no voxel belongs to any structure.")
    return problems


def _grid_problems(case: Case) -> tuple[list[str], dict[Path, Grid]]:
    """Headers that cannot be read or do not agree, and those that can."""
    problems: list[str] = []
    grids: dict[Path, Grid] = {}
    for path in (*case.images, *([case.label] if case.label else [])):
        try:
            grids[path] = read_grid(path)
        except DatasetError as problem:
            problems.append(str(problem))
    first = case.images[0]
    if first in grids:
        problems += outside(case.boxes_in, case.boxes, grids[first])
    for path, grid in grids.items():
        if first in grids and (differences := grids[first].differences(grid)):
            problems.append(
                f"{path} does not lie on the grid of {first.name}: {'; '.join(differences)}."
            )
    return problems, grids


def _stray_files(folder: Path, ending: str) -> list[str]:
    """Images of the same case in another format than the dataset declares."""
    cases: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()):
        kind = image_ending(path)
        if kind is not None:
            cases.setdefault(path.name.removesuffix(kind), []).append(path.name)
    return [
        f"{folder}: {' and '.join(names)} are the same case and channel; keep {stem}{ending}."
        for stem, names in cases.items()
        if len(names) > 1
    ]


def _truncated(path: Path) -> str:
    return f"{path} is truncated: it ends before its header says; copy it again."
