"""A segmentation -> a DICOM SEG object that refers to the series it was made on.

highdicom writes it (the extra `dicom`). Segments have the labels' names; their coded types are as exact as
the dictionary of pydicom has codes for: cortex and medulla are both coded as kidney.
"""

from __future__ import annotations

import os
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from renalplan.dicom import Series, find_series, read_series_grid, stated_class
from renalplan.errors import DatasetError, UsageError
from renalplan.evaluation.report.case import require_one_series
from renalplan.evaluation.report.look import looks_of
from renalplan.evaluation.report.mesh_files import rgb
from renalplan.evaluation.space import require_same_space
from renalplan.evaluation.surgery.report import find_scheme, read_labels
from renalplan.files import atomic_file, real_path
from renalplan.geometry import Grid, Orientation
from renalplan.kidney_tumor import is_lesion
from renalplan.labels import LabelScheme
from renalplan.locks import hold_files

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

SEG_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
# what a SEG repeats of its series: what says which it is, and what may be unknown (DICOM's type 2)
IDENTITY = ("SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex",
    "StudyID", "StudyDate", "StudyTime", "AccessionNumber",
)  # fmt: skip
SERIES_NUMBER = 901  # beyond what scanners and workstations give
# the first word that a structure's name holds decides: keyword in pydicom's SNOMED dictionary
TYPES = (
    ("cyst", "Cyst"),
    ("artery", "RenalArtery"),
    ("arteries", "RenalArtery"),
    ("aorta", "Aorta"),
    ("vein", "RenalVein"),
    ("cava", "InferiorVenaCava"),
    ("ureter", "Ureter"),
    ("pelvis", "RenalPelvis"),
    ("kidney", "Kidney"),
    ("cortex", "Kidney"),
    ("medulla", "Kidney"),
    ("parenchyma", "Kidney"),
)


def write_dicom_seg(
    series: str | Path,
    segmentation: str | Path,
    out: str | Path,
    *,
    labels: str | Path | None = None,
    overwrite: bool = False,
) -> int:
    """Write a segmentation as DICOM SEG, a segment for each structure.

    Args:
        series: Folder of the one DICOM series that the segmentation was made on.
        segmentation: Label file on the series' grid.
        out: The file, `.dcm`, outside the series' folder.
        labels: dataset.json that says what the labels mean, its folder, or a dataset's number or
            name in the workspace; None looks beside the segmentation and in the folder above.
        overwrite: Replace the file if it is there and is a DICOM SEG.

    Returns:
        How many segments it has: one for each structure that dataset.json declares, with voxels or not.

    Raises:
        UsageError: highdicom is not installed, the output is no `.dcm` file, is there or lies in the
            series' folder, or another run writes it.
        DatasetError: there is not one good series, the grids differ, labels are not declared or there
            are none, or the series lacks what DICOM wants of it.
    """
    target, path, folder = Path(out), Path(segmentation), Path(series)
    _require_output(target, folder, overwrite)
    _require_highdicom()
    scheme = find_scheme(path, None if labels is None else Path(labels))
    volume = read_labels(path, scheme)
    if not scheme.foreground_mask(volume.array).any():
        raise DatasetError(f"{path} holds none of the structures {list(scheme.foreground)}.")
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; give the folder of the DICOM series.")
    found = require_one_series(find_series(folder), folder)
    grid = read_series_grid(found.files)
    require_same_space(path, volume.grid, folder, grid)
    planes = Orientation.of(grid).undo(volume.array[0])
    with hold_files(target):
        _require_output(target, folder, overwrite)  # another run may have written it meanwhile
        with warnings.catch_warnings():
            # of names without a caret: the patient's is repeated as the series has it, right or not
            warnings.filterwarnings("ignore", message=".*only a single component")
            made = _segmentation(found, np.ascontiguousarray(planes), scheme, grid)
        with atomic_file(target) as temporary:
            made.save_as(temporary)
    return len(scheme.foreground)


def _require_output(target: Path, folder: Path, overwrite: bool) -> None:
    if target.is_dir() or target.suffix != ".dcm":
        raise UsageError(f"output {target} must be a file that ends in .dcm.")
    if real_path(target.parent).is_relative_to(real_path(folder)):
        raise UsageError(
            f"output {target} lies in the series' folder {folder}; write it elsewhere."
        )
    if not os.path.lexists(target):
        return
    if not target.is_file() or stated_class(target) != SEG_CLASS:  # it may be a slice of any scan
        raise UsageError(
            f"{target} is there already and is no DICOM SEG, so it is never replaced; choose another name."
        )
    if not overwrite:
        raise UsageError(f"{target} is there already; choose another name, or add --overwrite.")


def _require_highdicom() -> None:
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise UsageError(
            "DICOM SEG needs highdicom, which is not installed: pip install 'renalplan[dicom]'."
        ) from None


def _segmentation(series: Series, planes: NDArray, scheme: LabelScheme, grid: Grid) -> Any:
    from highdicom import UID, PixelMeasuresSequence
    from highdicom.seg import Segmentation
    from pydicom import dcmread

    sources = [dcmread(file, stop_before_pixels=True) for file in series.files]
    for name in IDENTITY:
        if stated := [
            file for file, s in zip(series.files, sources, strict=True) if not s.get(name)
        ]:
            raise DatasetError(
                f"{stated[0]} has no {name}, by which a DICOM SEG refers to it; export the series again."
            )
    if len({source.SOPInstanceUID for source in sources}) < len(sources):
        raise DatasetError(
            f"several slices in {series.folder} have one SOPInstanceUID, by which a DICOM SEG refers "
            "to each; export the series again."
        )
    for source in sources:
        for name in MAY_BE_EMPTY:  # anonymization takes some away; DICOM wants them there, if empty
            source.setdefault(name, "")
        # highdicom wants one; the stated thickness may be missing, and need not be the slices' distance
        source.SliceThickness = grid.spacing[2]
    try:
        return Segmentation(
            source_images=sources,
            pixel_array=_segments(planes, scheme),
            segmentation_type="BINARY",
            segment_descriptions=_descriptions(scheme),
            series_instance_uid=UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer="renalplan",
            manufacturer_model_name="renalplan",
            software_versions=version("renalplan"),
            device_serial_number="0",
            series_description="Segmentation (research use only)",
            pixel_measures=PixelMeasuresSequence(
                pixel_spacing=(grid.spacing[1], grid.spacing[0]),
                slice_thickness=grid.spacing[2],
                spacing_between_slices=grid.spacing[2],
            ),
            content_label="SEGMENTATION",
        )
    except (AttributeError, ValueError) as problem:
        raise DatasetError(
            f"the series in {series.folder} lacks or misstates what a DICOM SEG has to repeat: "
            f"{str(problem).rstrip('.')}."
        ) from None


def _segments(planes: NDArray, scheme: LabelScheme) -> NDArray:
    """(k, j, i) numbers of segments; (k, j, i, segment) if structures may overlap."""
    if scheme.has_regions:
        masks = [np.isin(planes, values) for values in scheme.foreground.values()]
        return np.stack(masks, axis=-1).astype(np.uint8)
    result = np.zeros(planes.shape, np.uint8 if len(scheme.foreground) < 256 else np.uint16)
    for number, values in enumerate(scheme.foreground.values(), 1):
        result[np.isin(planes, values)] = number
    return result


def _descriptions(scheme: LabelScheme) -> list[SegmentDescription]:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    names = tuple(scheme.foreground)
    algorithm = AlgorithmIdentificationSequence(
        name="renalplan", family=codes.DCM.ArtificialIntelligence, version=version("renalplan")
    )
    described = []
    for number, (name, look) in enumerate(looks_of(names).items(), 1):
        low = name.lower()
        altered = is_lesion(name) or "cyst" in low
        keyword = next((word for part, word in TYPES if part in low), "Tissue")
        if altered and keyword != "Cyst":
            keyword = "Neoplasm"
        category = "MorphologicallyAbnormalStructure" if altered else "AnatomicalStructure"
        described.append(
            SegmentDescription(
                segment_number=number,
                segment_label=name[:64],  # what DICOM's LO holds
                segmented_property_category=getattr(codes.SCT, category),
                segmented_property_type=getattr(codes.SCT, keyword),
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm,
                display_color=CIELabColor.from_rgb(*rgb(look.colour)),
            )
        )
    return described
