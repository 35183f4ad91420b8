"""What the report's JSON file holds."""

from __future__ import annotations

from renalplan.evaluation.surgery.records import NOTICE, SurgeryNumbers
from renalplan.files import Record

TIMES = " \N{MULTIPLICATION SIGN} "


class StructureRecord(Record):
    """One structure of the segmentation.

    Attributes:
        name: As dataset.json has it.
        labels: Its label values.
        colour: In the report.
        volume_ml: Voxels times voxel volume.
        triangles: Of its mesh.
        stl: Its mesh, LPS mm, beside the report; None if there are no voxels to make one of.
        glb: The same.
    """

    name: str
    labels: tuple[int, ...]
    colour: str
    volume_ml: float
    triangles: int = 0
    stl: str | None = None
    glb: str | None = None


class PatientReport(Record):
    """One patient.

    Attributes:
        notice: What this is not.
        case: The segmentation file's name without its ending.
        image: Name of the scan's file or folder.
        segmentation: Name of the label file.
        size: Voxels of the canonical array along (z, y, x).
        spacing_mm: Along the same axes.
        viewer_spacing_mm: Of the scan's copy in the page, along all axes.
        structures: In dataset.json's order.
        all_glb: All meshes in one file, LPS mm; None if there are none.
        numbers: What `renalplan_surgery` measures; None if there is no kidney to measure.
        without_numbers: Why there are none.
    """

    notice: str = NOTICE
    case: str
    image: str
    segmentation: str
    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    viewer_spacing_mm: float
    structures: tuple[StructureRecord, ...]
    all_glb: str | None = None
    numbers: SurgeryNumbers | None = None
    without_numbers: str = ""

    @property
    def voxels(self) -> str:
        """Size and spacing in words, along the patient's axes x, y, z."""
        size = TIMES.join(str(count) for count in self.size[::-1])
        steps = TIMES.join(f"{step:.3g}" for step in self.spacing_mm[::-1])
        return f"{size} voxels of {steps} mm"
