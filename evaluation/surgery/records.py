"""What the report holds: one record for the patient, each kidney, tumor and artery."""

from __future__ import annotations

from renalplan.evaluation.surgery.breaks import Break, Contact
from renalplan.evaluation.surgery.frame import Point
from renalplan.evaluation.surgery.numbers import Number
from renalplan.evaluation.surgery.padua import Padua
from renalplan.evaluation.surgery.position import Position
from renalplan.evaluation.surgery.renal import Renal
from renalplan.evaluation.surgery.resection import Resection
from renalplan.evaluation.surgery.shape import Shape
from renalplan.files import Record

NOTICE = "Research use only; not a medical device. Every number is measured on the segmentation."


class Volumes(Record):
    """Volumes of one kidney.

    Attributes:
        kidney: Parenchyma with tumors and cysts.
        parenchyma: Kidney tissue without lesions.
        cortex: Part of the parenchyma.
        medulla: Part of the parenchyma.
        tumor: All tumors.
        cyst: All cysts.
        function_share: This kidney's share of both kidneys' cortex, or parenchyma if there is no
            cortex: an estimate of its share of the renal function.
    """

    kidney: Number
    parenchyma: Number
    cortex: Number
    medulla: Number
    tumor: Number
    cyst: Number
    function_share: Number


class Branch(Record):
    """One branch of the renal artery.

    Attributes:
        number: From 1 within this kidney.
        parent: The branch that it leaves; 0 if none is known.
        generation: 0 for branches without a parent.
        terminal: Whether no branch leaves it.
        rooted: Whether it hangs on a root; if not, its piece is among the breaks.
        start_mm: LPS.
        end_mm: LPS.
        length: Of the centerline.
        radius: Mean.
        territory: Parenchyma that it feeds, with all branches beyond it.
        lost_share: Share of this kidney's parenchyma that is lost if it is clamped.
    """

    number: int
    parent: int
    generation: int
    terminal: bool
    rooted: bool
    start_mm: Point
    end_mm: Point
    length: Number
    radius: Number
    territory: Number
    lost_share: Number


class Arteries(Record):
    """The arteries of one kidney.

    Attributes:
        missing: Empty, or `not computable: needs …`: then the rest is empty too.
        root: How the root was found.
        branches: In order of number, a parent before its children.
        breaks: Pieces that do not hang on a root.
        loops_mm: Where two branches meet again: a tree has no such place, LPS.
        vein_contacts: Where arteries touch veins; empty too if no label is a vein.
        unreached: Parenchyma that no way inside the kidney joins to a tip; divided in straight lines.
    """

    missing: str = ""
    root: str = ""
    branches: tuple[Branch, ...] = ()
    breaks: tuple[Break, ...] = ()
    loops_mm: tuple[Point, ...] = ()
    vein_contacts: tuple[Contact, ...] = ()
    unreached: Number | None = None


class BranchAtTumor(Record):
    """What one branch has to do with one tumor.

    Attributes:
        number: Of the branch.
        distance: From the tumor's surface to the branch's wall.
        tumor_share: Share of the tumor in its territory.
        margin_share: Share of the parenchyma within the margin in its territory.
    """

    number: int
    distance: Number
    tumor_share: Number
    margin_share: Number


class Clamping(Record):
    """A set of branches that covers a tumor and its margin when it is clamped.

    Attributes:
        branches: Numbers.
        lost: Parenchyma of this kidney that is lost.
        lost_share: Its share.
    """

    branches: tuple[int, ...]
    lost: Number
    lost_share: Number


class Supply(Record):
    """Which arteries feed one tumor and its margin.

    Attributes:
        missing: Empty, or `not computable: needs …`.
        margin_mm: The margin.
        nearest: Number of the branch nearest to the tumor; 0 if there is none.
        branches: Those that feed part of tumor or margin, by number.
        clampings: For one clamp, two … the set that loses least; the last is the smallest that loses
            no more than it must.
        parent_unknown: Whether a piece without a root feeds part of it: what it comes from is not in
            the sets.
    """

    missing: str = ""
    margin_mm: float
    nearest: int = 0
    branches: tuple[BranchAtTumor, ...] = ()
    clampings: tuple[Clamping, ...] = ()
    parent_unknown: bool = False


class TumorNumbers(Record):
    """One tumor; `folds_found` says in how many of the folds' segmentations there is one at its place."""

    number: int
    shape: Shape
    position: Position
    renal: Renal
    padua: Padua
    resections: tuple[Resection, ...]
    supply: Supply
    folds_found: int | None = None


class KidneyNumbers(Record):
    """One kidney.

    Attributes:
        side: `left`, `right`, or `unknown`.
        side_from: What tells the side.
        volumes: Of its parts.
        polar_lines_mm: LPS z of the lower and upper polar line; None if the mask shows no hilum.
        tumors: The largest first.
        arteries: Its arteries.
    """

    side: str
    side_from: str
    volumes: Volumes
    polar_lines_mm: tuple[float, float] | None
    tumors: tuple[TumorNumbers, ...]
    arteries: Arteries


class SurgeryNumbers(Record):
    """One patient.

    Attributes:
        notice: What this is not.
        case: Name of the segmentation.
        spacing_mm: Voxel size along (z, y, x).
        labels: What was taken for what: part -> label values.
        folds: How many folds' segmentations the `folds` intervals come from.
        remarks: What must be known before the numbers are trusted: tumors that belong to no kidney, kidneys
            that the scan cuts off, sides that contradict the labels' names.
        kidneys: From the patient's right to the left.
    """

    notice: str = NOTICE
    case: str
    spacing_mm: tuple[float, float, float]
    labels: dict[str, tuple[int, ...]]
    folds: int = 0
    remarks: tuple[str, ...] = ()
    kidneys: tuple[KidneyNumbers, ...]
