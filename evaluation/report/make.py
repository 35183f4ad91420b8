"""Scan and segmentation -> the report's files. The entry to this package."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import trimesh
from matplotlib.image import imsave
from numpy.typing import NDArray

from renalplan.errors import DatasetError, UsageError
from renalplan.evaluation.report.case import Case, load_case
from renalplan.evaluation.report.mesh_files import glb_bytes, mz3_bytes, rgb, stl_bytes
from renalplan.evaluation.report.page import Content, report_page
from renalplan.evaluation.report.paper import report_paper
from renalplan.evaluation.report.records import PatientReport, StructureRecord
from renalplan.evaluation.report.slices import draw_slices
from renalplan.evaluation.report.small_scan import shrink
from renalplan.evaluation.report.still import BACK, FRONT, Body, draw
from renalplan.evaluation.report.surfaces import make_surface
from renalplan.evaluation.surgery.frame import Point
from renalplan.evaluation.surgery.records import SurgeryNumbers
from renalplan.evaluation.surgery.report import (
    case_name,
    check_margins,
    read_folds,
    surgery_numbers,
)
from renalplan.evaluation.surgery.resection import MARGINS_MM
from renalplan.files import atomic_file, remove_leftovers, write_json, write_text
from renalplan.locks import hold_files
from renalplan.outputs import require_own

PAGE_TRIANGLES = 120_000  # of all structures together in the page
LEAST_TRIANGLES = 400  # of one of them
STILL_PIXELS = (520, 660)  # height and width
GROUND = (20, 23, 26)
SPACE_NAME = "LPS_mm"  # in the names of the files of meshes

Surfaces = dict[str, trimesh.Trimesh]


def patient_report(
    image: str | Path,
    segmentation: str | Path,
    out: str | Path,
    *,
    labels: str | Path | None = None,
    margins: Sequence[float] = MARGINS_MM,
    folds: Sequence[str | Path] = (),
    error_bars: bool = True,
) -> PatientReport:
    """Write one patient's report: `<case>.html`, `.pdf`, `.png`, `.json` and a folder of meshes.

    Args:
        image: The scan: a file, or a folder with one DICOM series.
        segmentation: Label file on the scan's grid; its name is the case's.
        out: Folder; what it holds already stays, but for an earlier report of the same case.
        labels: dataset.json that says what the labels mean, its folder, or a dataset's number or
            name in the workspace; None looks beside the segmentation and in the folder above.
        margins: mm of the resections.
        folds: Segmentations of the same scan by single folds.
        error_bars: Whether everything is measured again with one voxel more and less.

    Returns:
        What the JSON file holds. Where no label is kidney tissue there are no numbers, and it says so.

    Raises:
        UsageError: the output is a file, a margin is impossible, another run writes the case's report,
            or somebody else's files have its names.
        DatasetError: a file is unreadable, lies on another grid, or holds undeclared labels or none;
            nothing says what the labels mean.
    """
    target = Path(out)
    if target.exists() and not target.is_dir():
        raise UsageError(f"output {target} is not a folder; choose another name.")
    check_margins(margins)
    record, *beside = _files(target, case_name(Path(segmentation)))
    require_own(record, PatientReport, *beside)
    case = load_case(Path(image), Path(segmentation), None if labels is None else Path(labels))
    others = read_folds(folds, case.scheme, Path(segmentation), case.grid)
    with hold_files(*beside, record, advice=", or choose another folder"):
        remove_leftovers(target / _meshes_folder(case))
        names = (Path(image).name, Path(segmentation).name)
        return _write_all(case, names, target, margins, others, error_bars)


def _write_all(
    case: Case,
    names: tuple[str, str],
    target: Path,
    margins: Sequence[float],
    folds: Sequence[NDArray],
    error_bars: bool,
) -> PatientReport:
    """What `patient_report` does with what it has read; `names` are the scan's and the segmentation's."""
    numbers, problem = _measure(case, margins, folds, error_bars)
    surfaces = {name: make_surface(case.mask(name), case.frame) for name in case.scheme.foreground}
    found = {name: surface for name, surface in surfaces.items() if surface is not None}
    scan = shrink(case.image, case.structures, case.kidneys(), case.frame, case.window)
    structures = tuple(_write_meshes(case, found, target))
    report = PatientReport(
        case=case.name,
        image=names[0],
        segmentation=names[1],
        size=case.labels.shape,
        spacing_mm=case.frame.spacing,
        viewer_spacing_mm=round(scan.spacing_mm, 4),
        structures=structures,
        all_glb=_write_scene(case, found, target),
        numbers=numbers,
        without_numbers=problem,
    )
    slices = list(draw_slices(case, numbers))
    stills = [_still(case, found, view) for view in (FRONT, BACK)] if found else []
    content = Content(
        report=report,
        looks=case.looks,
        meshes=_page_meshes(case, found),
        scan=scan,
        window=case.window,
        focus=_focus(case, numbers),
        still=_png(stills[0]) if stills else slices[0].png,
        slices=slices,
    )
    pdf, png = report_paper(report, stills, slices)
    files = _files(target, case.name)
    write_json(files[0], report)
    write_text(files[1], report_page(content))
    _write(files[2], pdf)
    _write(files[3], png)
    return report


def _files(out: Path, case: str) -> list[Path]:
    """The JSON file, which is written first (see `require_own`), the page, its PDF and PNG."""
    return [out / f"{case}.{ending}" for ending in ("json", "html", "pdf", "png")]


def _measure(
    case: Case, margins: Sequence[float], folds: Sequence[NDArray], error_bars: bool
) -> tuple[SurgeryNumbers | None, str]:
    """The numbers, or why there are none: pictures and meshes are worth having without them."""
    try:
        numbers = surgery_numbers(
            case.labels,
            case.grid,
            case.scheme,
            case=case.name,
            margins=margins,
            folds=folds,
            error_bars=error_bars,
        )
    except DatasetError as problem:
        return None, f"There are no numbers: {problem}"
    return numbers, ""


def _write_meshes(case: Case, surfaces: Surfaces, out: Path) -> list[StructureRecord]:
    records = []
    for place, (name, values) in enumerate(case.scheme.foreground.items(), 1):
        volume = float(np.count_nonzero(case.mask(name))) * case.frame.voxel_ml
        record = StructureRecord(
            name=name, labels=values, colour=case.looks[name].colour, volume_ml=volume
        )
        if (surface := surfaces.get(name)) is not None:
            stem = f"{_meshes_folder(case)}/{place}_{_plain(name)}_{SPACE_NAME}"
            _write(out / f"{stem}.stl", stl_bytes(surface))
            _write(out / f"{stem}.glb", glb_bytes({name: surface}, _colours(case)))
            update = {"triangles": len(surface.faces), "stl": f"{stem}.stl", "glb": f"{stem}.glb"}
            record = record.model_copy(update=update)
        records.append(record)
    return records


def _write_scene(case: Case, surfaces: Surfaces, out: Path) -> str | None:
    if not surfaces:
        return None
    name = f"{_meshes_folder(case)}/all_{SPACE_NAME}.glb"
    _write(out / name, glb_bytes(surfaces, _colours(case)))
    return name


def _meshes_folder(case: Case) -> str:
    return f"{case.name}_meshes"


def _plain(name: str) -> str:
    """A structure's name as part of a file name: letters, digits and underlines."""
    return re.sub(r"\W+", "_", name)[:40]


def _colours(case: Case) -> dict[str, str]:
    return {name: look.colour for name, look in case.looks.items()}


def _page_meshes(case: Case, surfaces: Surfaces) -> dict[str, bytes]:
    """The meshes with so few triangles that a page can hold them, shared out by what each has."""
    total = sum(len(surface.faces) for surface in surfaces.values())
    found = {}
    for name, surface in surfaces.items():
        most = max(LEAST_TRIANGLES, PAGE_TRIANGLES * len(surface.faces) // total)
        if len(surface.faces) > most:
            surface = surface.simplify_quadric_decimation(face_count=most)
        found[name] = mz3_bytes(surface)
    return found


def _still(case: Case, surfaces: Surfaces, view: object) -> NDArray[np.uint8]:
    bodies = [
        Body(surface, rgb(case.looks[name].colour), case.looks[name].opacity)
        for name, surface in surfaces.items()
    ]
    return draw(bodies, view, STILL_PIXELS, GROUND)  # type: ignore[arg-type]


def _focus(case: Case, numbers: SurgeryNumbers | None) -> Point:
    """Where the slices begin: the largest tumor's middle, else the kidneys'."""
    tumors = [] if numbers is None else [t for k in numbers.kidneys for t in k.tumors]
    if tumors:
        return max(tumors, key=lambda tumor: tumor.shape.volume.value or 0.0).position.centre_mm
    voxels = np.argwhere(case.kidneys())
    return case.frame.point(voxels.mean(axis=0) * case.frame.spacing)


def _png(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    imsave(buffer, picture, format="png", metadata={"Software": None})  # type: ignore[dict-item]
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)
