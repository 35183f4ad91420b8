"""The commands that measure a segmentation for planning an operation, and put it on a page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from renalplan.cli.common import command, make_parser, require_folder


@command
def surgery(arguments: list[str] | None = None) -> int:
    """Measure what a partial nephrectomy is planned with."""
    parser = make_parser(
        "surgery",
        "Measure kidneys, tumors and arteries of one segmentation: volumes, nephrometry scores, "
        "arterial territories, clamping, resection. Research use; not a medical device.",
        "renalplan_surgery -s segmentations/case.nii.gz -o case.surgery.json",
    )
    _add_segmentation(parser, "label file")
    parser.add_argument("-o", dest="out", type=Path, required=True, help="JSON file to write")
    _add_measuring(parser)
    given = parser.parse_args(arguments)

    from renalplan.evaluation.surgery.report import surgery_report
    from renalplan.evaluation.surgery.wording import sentences

    require_folder(given.out.parent)
    numbers = surgery_report(
        given.segmentation,
        given.out,
        **_measuring(given),
    )
    for line in sentences(numbers):
        print(line)
    print(f"all numbers: {given.out}")
    return 0


@command
def report(arguments: list[str] | None = None) -> int:
    """Write one patient's report."""
    parser = make_parser(
        "report",
        "Write one patient's report: a page with slices, a 3-D view and the numbers of "
        "renalplan_surgery (HTML, PDF, PNG, JSON), and meshes (STL, GLB). Research use; not a medical device.",
        "renalplan_report -i scans/case_0000.nii.gz -s segmentations/case.nii.gz -o reports",
    )
    parser.add_argument(
        "-i",
        dest="image",
        type=Path,
        required=True,
        metavar="CT",
        help="the scan: a file, or a folder with one DICOM series",
    )
    _add_segmentation(parser, "label file on the scan's grid")
    parser.add_argument("-o", dest="out", type=Path, required=True, help="folder to write into")
    _add_measuring(parser)
    given = parser.parse_args(arguments)

    from renalplan.evaluation.report.make import patient_report

    require_folder(given.out)
    made = patient_report(
        given.image,
        given.segmentation,
        given.out,
        **_measuring(given),
    )
    print(made.notice)
    if made.without_numbers:
        print(made.without_numbers)
    for ending in ("html", "pdf", "png", "json"):
        print(given.out / f"{made.case}.{ending}")
    if made.all_glb:
        print(f"meshes (LPS mm): {(given.out / made.all_glb).parent}")
    return 0


@command
def dicom_seg(arguments: list[str] | None = None) -> int:
    """Write a segmentation as DICOM SEG."""
    parser = make_parser(
        "dicom_seg",
        "Write a segmentation as a DICOM SEG object that refers to the series it was made on. "
        "Needs highdicom: pip install 'renalplan[dicom]'.",
        "renalplan_dicom_seg -i study/CT -s segmentations/study_CT.nii.gz -o study_CT.dcm",
    )
    parser.add_argument(
        "-i",
        dest="series",
        type=Path,
        required=True,
        metavar="SERIES",
        help="folder of the DICOM series",
    )
    _add_segmentation(parser, "label file on the series' grid")
    parser.add_argument(
        "-o", dest="out", type=Path, required=True, help="DICOM file to write, outside SERIES"
    )
    _add_labels(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a DICOM SEG that is there"
    )
    given = parser.parse_args(arguments)

    from renalplan.evaluation.report.dicom_seg import write_dicom_seg

    require_folder(given.out.parent)
    count = write_dicom_seg(
        given.series,
        given.segmentation,
        given.out,
        labels=given.labels,
        overwrite=given.overwrite,
    )
    print(f"{given.out}: {count} segments")
    return 0


def _add_segmentation(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "-s", dest="segmentation", type=Path, required=True, metavar="SEGMENTATION", help=what
    )


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="DATASET",
        help="what names the labels: a dataset.json, the folder of a dataset or model, or a dataset's "
        "number or name in RENALPLAN_WORKSPACE (default: dataset.json beside the segmentation, where "
        "prediction writes it, or in the folder above)",
    )


def _measuring(given: argparse.Namespace) -> dict[str, Any]:
    """What `_add_measuring` asked for, by the names that both functions give it."""
    return {name: getattr(given, name) for name in ("labels", "margins", "folds", "error_bars")}


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    """What both commands let the user say about labels and numbers."""
    _add_labels(parser)
    parser.add_argument(
        "--margins",
        nargs="+",
        type=float,
        default=[0.0, 5.0, 10.0],
        metavar="MM",
        help="margins of the resection (default: 0 5 10)",
    )
    parser.add_argument(
        "--folds",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="the same scan segmented by single folds: how far they disagree",
    )
    parser.add_argument(
        "--error_bars",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure again with one voxel more and less (default: yes; takes five times as long)",
    )
