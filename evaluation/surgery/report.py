"""A label map -> the report: every kidney measured, with error bars. The entry to this package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renalplan.errors import DatasetError, UsageError
from renalplan.evaluation.cases import present_values
from renalplan.evaluation.space import require_same_space
from renalplan.evaluation.structures import described
from renalplan.evaluation.surgery.anatomy import find_anatomy
from renalplan.evaluation.surgery.frame import Frame
from renalplan.evaluation.surgery.hilum import find_hilum
from renalplan.evaluation.surgery.kidney import measure_kidney
from renalplan.evaluation.surgery.numbers import share_of
from renalplan.evaluation.surgery.records import Arteries, KidneyNumbers, Supply, SurgeryNumbers
from renalplan.evaluation.surgery.remarks import find_remarks
from renalplan.evaluation.surgery.resection import MARGINS_MM
from renalplan.evaluation.surgery.sides import KidneyMasks, find_kidneys
from renalplan.evaluation.surgery.supply import why_no_arteries
from renalplan.evaluation.surgery.tree import make_tree
from renalplan.evaluation.surgery.variation import (
    one_voxel_variants,
    with_intervals,
    with_voxel_intervals,
)
from renalplan.files import real_path, write_json
from renalplan.geometry import Grid
from renalplan.images import Volume, image_ending, read_volume, require_file
from renalplan.labels import LabelScheme
from renalplan.locks import hold_files
from renalplan.outputs import require_own
from renalplan.workspace import Workspace

MOST_MARGIN_MM = 50.0

Measured = list[tuple[KidneyMasks, KidneyNumbers]]  # the kidneys of one segmentation


def surgery_numbers(
    labels: NDArray,
    grid: Grid,
    scheme: LabelScheme,
    *,
    case: str = "",
    margins: Sequence[float] = MARGINS_MM,
    folds: Sequence[NDArray] = (),
    error_bars: bool = True,
) -> SurgeryNumbers:
    """Measure all kidneys of a label map.

    Args:
        labels: Canonical (z, y, x) label values, as `images.read_volume` gives them.
        grid: The file's grid.
        scheme: What the values mean; any subset of kidney (or cortex and medulla), tumor, cyst,
            artery, vein, aorta, sinus and collecting system, told by the names.
        case: A name for the record.
        margins: mm of the resections.
        folds: Other segmentations of the same scan, of the same shape: how far they disagree.
        error_bars: Whether everything is measured again with one voxel more and less.

    Returns:
        The record; `files.write_json` writes it.

    Raises:
        UsageError: a margin is negative or beyond `MOST_MARGIN_MM`.
        DatasetError: no label is kidney tissue, or the label map has none.
    """
    chosen = check_margins(margins)
    anatomy, frame = find_anatomy(scheme), Frame.of(grid)
    if not anatomy.parenchyma:
        raise DatasetError(
            f"none of the labels {list(scheme.foreground)} is kidney tissue; name one kidney, "
            "parenchyma, cortex or medulla in dataset.json."
        )
    found = find_kidneys(labels, anatomy, frame)
    if not found.kidneys:
        raise DatasetError(
            f"the segmentation {case} has no kidney tissue (labels {list(anatomy.parenchyma)}); "
            "there is nothing to measure."
        )
    kidneys = _measure(found.kidneys, chosen, arteries=True, error_bars=error_bars)
    others = [_measure_fold(find_kidneys(fold, anatomy, frame).kidneys, chosen) for fold in folds]
    if folds:
        kidneys = [
            _with_folds(numbers, masks, others)
            for numbers, masks in zip(kidneys, found.kidneys, strict=True)
        ]
    return SurgeryNumbers(
        case=case,
        spacing_mm=frame.spacing,
        labels=anatomy.named,
        folds=len(folds),
        remarks=tuple(find_remarks(found, [one.side for one in kidneys])),
        kidneys=tuple(kidneys),
    )


def surgery_report(
    segmentation: str | Path,
    out: str | Path,
    *,
    labels: str | Path | None = None,
    margins: Sequence[float] = MARGINS_MM,
    folds: Sequence[str | Path] = (),
    error_bars: bool = True,
) -> SurgeryNumbers:
    """Measure a segmentation file and write the numbers as JSON.

    Args:
        segmentation: Label file, any format we read.
        out: The JSON file; one that is there is replaced if it holds such numbers.
        labels: dataset.json that says what the labels mean, its folder, or a dataset's number or name in
            the workspace; None looks beside the segmentation and in the folder above.
        margins: mm of the resections.
        folds: Segmentations of the same scan by single folds.
        error_bars: As in `surgery_numbers`.

    Raises:
        UsageError: the output is a folder, no JSON file or somebody else's, or another run writes it;
            a margin is impossible.
        DatasetError: a file is unreadable, lies on another grid, or holds undeclared labels; nothing
            says what the labels mean.
    """
    path, target = Path(segmentation), Path(out)
    if target.is_dir() or target.suffix != ".json":
        raise UsageError(f"output {target} must be a file that ends in .json.")
    require_own(target, SurgeryNumbers)
    check_margins(margins)
    scheme = find_scheme(path, None if labels is None else Path(labels))
    volume = read_labels(path, scheme)
    others = read_folds(folds, scheme, path, volume.grid)
    with hold_files(target):
        numbers = surgery_numbers(
            volume.array[0],
            volume.grid,
            scheme,
            case=case_name(path),
            margins=margins,
            folds=others,
            error_bars=error_bars,
        )
        write_json(target, numbers)
    return numbers


def check_margins(margins: Sequence[float]) -> tuple[float, ...]:
    """Margins in mm, ascending, each once; UsageError if one is impossible or there is none."""
    chosen = tuple(sorted({float(margin) for margin in margins}))
    if not chosen or not all(0 <= margin <= MOST_MARGIN_MM for margin in chosen):
        raise UsageError(
            f"margins are {list(margins)}; give one or more from 0 to {MOST_MARGIN_MM:g} mm."
        )
    return chosen


def case_name(segmentation: Path) -> str:
    """The name of a segmentation file without its ending."""
    return segmentation.name.removesuffix(image_ending(segmentation) or "")


def find_scheme(path: Path, given: Path | None) -> LabelScheme:
    """What a segmentation's labels mean.

    Args:
        path: Label file.
        given: dataset.json, its folder, or a dataset's number or name in the workspace; None looks beside
            the file and in the folder above.

    Raises:
        UsageError: what is given does not exist.
        DatasetError: there is no such label file, no dataset.json, or it is not valid.
    """
    require_file(path)  # first: what a mistyped name's labels mean is not the question
    if given is not None:
        named = Workspace.find().label_names(given, "--labels")
    else:
        places = (path.parent, real_path(path).parent.parent)
        found = [place for place in places if (place / "dataset.json").is_file()]
        if not found:
            raise DatasetError(
                f"nothing says what the labels of {path} mean: there is no dataset.json beside it "
                "or in the folder above; give one with --labels."
            )
        named = found[0] / "dataset.json"
    return described(named).scheme


def read_labels(path: Path, scheme: LabelScheme) -> Volume:
    """Read a label file; DatasetError if it is unreadable or holds what the scheme does not declare."""
    volume = read_volume(path, labels=True)
    known = scheme.all_values
    if unknown := [value for value in present_values(volume.array[0]) if value not in known]:
        raise DatasetError(
            f"{path} holds label values {unknown}, which dataset.json does not declare "
            f"(declared: {list(known)}); give the one that belongs to it with --labels."
        )
    return volume


def read_folds(
    folds: Sequence[str | Path], scheme: LabelScheme, path: Path, grid: Grid
) -> list[NDArray]:
    """Other segmentations of the scan of `path`, whose grid theirs must be (DatasetError if not)."""
    others = []
    for fold in map(Path, folds):
        other = read_labels(fold, scheme)
        require_same_space(fold, other.grid, path, grid)
        others.append(other.array[0])
    return others


def _measure(
    found: Sequence[KidneyMasks], margins: tuple[float, ...], *, arteries: bool, error_bars: bool
) -> list[KidneyNumbers]:
    sides = _sides(found) if found else []
    result: list[KidneyNumbers] = []
    varied: list[list[KidneyNumbers]] = []
    for masks, side in zip(found, sides, strict=True):
        tree = make_tree(masks) if arteries and not why_no_arteries(masks) else None
        result.append(measure_kidney(masks, tree, side, margins))
        variants = one_voxel_variants(masks) if error_bars else ()
        varied.append(
            [measure_kidney(one, tree, side, margins, further) for one, further in variants]
        )
    if error_bars:
        result = [
            with_voxel_intervals(one, variants)
            for one, variants in zip(result, varied, strict=True)
        ]
    return _with_function(result)


def _sides(found: Sequence[KidneyMasks]) -> list[tuple[str, str]]:
    """Side of each kidney and what tells it; they come from the patient's right to the left."""
    if len(found) == 2:
        return [("right", "the other kidney"), ("left", "the other kidney")]
    if found[0].named:
        return [(found[0].named, "the name of its label")]
    hilum = find_hilum(found[0].organ, found[0].frame)
    if hilum is None:
        return [("unknown", "")]
    # the hilum faces the midline; LPS: x grows to the left
    return [("left" if hilum.direction[0] < 0 else "right", "the hilum, which faces the midline")]


def _with_function(kidneys: list[KidneyNumbers]) -> list[KidneyNumbers]:
    if len(kidneys) < 2:
        return kidneys
    tissue = [one.volumes.cortex for one in kidneys]
    if not all(one.value is not None for one in tissue) or not sum(
        one.value or 0 for one in tissue
    ):
        tissue = [one.volumes.parenchyma for one in kidneys]
    shares = [
        share_of(tissue[place], tissue[:place] + tissue[place + 1 :])
        for place in range(len(tissue))
    ]
    return [
        one.model_copy(update={"volumes": one.volumes.model_copy(update={"function_share": share})})
        for one, share in zip(kidneys, shares, strict=True)
    ]


def _measure_fold(found: Sequence[KidneyMasks], margins: tuple[float, ...]) -> Measured:
    numbers = _measure(found, margins, arteries=False, error_bars=False)
    return list(zip(found, numbers, strict=True))


def _with_folds(numbers: KidneyNumbers, masks: KidneyMasks, folds: list[Measured]) -> KidneyNumbers:
    """The numbers with how far the folds' own segmentations spread them."""
    matched = []
    for fold in folds:
        shared = [_overlap(masks.parenchyma, masks, own.parenchyma, own) for own, _ in fold]
        if any(shared):
            own, theirs = fold[int(np.argmax(shared))]
            matched.append(_renumbered(theirs, own, masks))
    bare = [one.model_copy(update={"arteries": Arteries()}) for one in matched]
    result = with_intervals(numbers, bare, "folds")
    tumors = tuple(
        tumor.model_copy(
            update={
                "folds_found": sum(
                    tumor.number in {other.number for other in one.tumors} for one in matched
                )
            }
        )
        for tumor in result.tumors
    )
    return result.model_copy(update={"tumors": tumors})


def _renumbered(numbers: KidneyNumbers, own: KidneyMasks, base: KidneyMasks) -> KidneyNumbers:
    """A fold's tumors under the numbers of the tumors that they overlap most; others are left out."""
    tumors = {}
    for tumor in numbers.tumors:  # the largest first
        mine = own.tumor(tumor.number)
        shared = [
            _overlap(base.tumor(number), base, mine, own)
            for number in range(1, base.tumor_count + 1)
        ]
        if any(shared) and (best := int(np.argmax(shared)) + 1) not in tumors:
            without = Supply(margin_mm=tumor.supply.margin_mm)
            tumors[best] = tumor.model_copy(update={"number": best, "supply": without})
    return numbers.model_copy(update={"tumors": tuple(tumors.values())})


def _overlap(first: NDArray, one: KidneyMasks, second: NDArray, other: KidneyMasks) -> int:
    """Voxels that two masks of different cut-outs share."""
    voxels = np.argwhere(first) * one.frame.spacing
    places = other.frame.to_array(one.frame.to_lps(voxels)) / other.frame.spacing
    index = np.rint(places).astype(int)
    index = index[((index >= 0) & (index < second.shape)).all(axis=1)]
    return int(np.count_nonzero(second[tuple(index.T)]))
