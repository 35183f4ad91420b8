"""What a rule may know of a scan beside its labels."""

from __future__ import annotations

from dataclasses import dataclass

from renalplan.geometry import Spacing
from renalplan.labels import LabelScheme
from renalplan.roles import Roles


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The surroundings of a canonical (z, y, x) label array: z to the head, y to the back, x to the left.

    Attributes:
        spacing: mm along (z, y, x).
        scheme: What the labels mean.
        roles: Which of them are kidney, lesion, vessel.
        middle: Of the scan along x, in voxels of the array (which may be a part of the scan).
    """

    spacing: Spacing
    scheme: LabelScheme
    roles: Roles
    middle: float
