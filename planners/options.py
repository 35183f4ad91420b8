"""What a user may ask of a planner; everything else follows from the fingerprint."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from renalplan.errors import UsageError

SPACINGS_MM = (0.01, 100.0)  # beyond, a scan has no voxels or more than any memory
CASCADES = ("auto", "none", "locate", "lowres")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Wishes of the user.

    Attributes:
        planner: One of `renalplan.planners.planner.PLANNERS`.
        gpu_memory_gb: Memory training may take; None is the planner's reference card.
        cascade: `auto` decides from the data; `none` plans one stage; `locate` finds kidney regions
            first; `lowres` segments coarsely first.
        spacing: Replaces the target spacing, mm along (z, y, x) of the canonical scan.
        window: HU (low, high) that CT channels are clipped to and scaled from, to 0..1; None
            takes the z-score by the foreground's statistics.
        base_features: Channels of the network's first stage; nnU-Net's is 32.
        max_features: Cap on a 3-D network's channels; a 2-D network's is 1.6 times that.
        name: The plan's name; the planner's if None.

    Raises:
        UsageError: a value is out of range, at construction.
    """

    planner: str = "renal"
    gpu_memory_gb: float | None = None
    cascade: Literal["auto", "none", "locate", "lowres"] = "auto"
    spacing: tuple[float, float, float] | None = None
    window: tuple[float, float] | None = None
    base_features: int = 32
    max_features: int = 320
    name: str | None = None

    def __post_init__(self) -> None:
        if self.gpu_memory_gb is not None and not 0 < self.gpu_memory_gb < math.inf:
            raise UsageError(f"gpu_memory must be above 0 GB, it is {self.gpu_memory_gb}.")
        if self.cascade not in CASCADES:
            raise UsageError(f"cascade must be one of {', '.join(CASCADES)}; not {self.cascade!r}.")
        if self.spacing is not None and not min(self.spacing) > 0:
            raise UsageError(f"spacing must be above 0 mm along every axis, it is {self.spacing}.")
        if self.spacing is not None and not (
            SPACINGS_MM[0] <= min(self.spacing) and max(self.spacing) <= SPACINGS_MM[1]
        ):
            raise UsageError(
                f"spacing must lie between {SPACINGS_MM[0]:g} and {SPACINGS_MM[1]:g} mm, it is "
                f"{self.spacing}."
            )
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9_]+", self.name):
            raise UsageError(f"a plan's name has letters, digits and _ only, not {self.name!r}.")
        if self.window is not None and not -math.inf < self.window[0] < self.window[1] < math.inf:
            raise UsageError(f"window must be two HU, the lower first, it is {self.window}.")
        if not 2 <= self.base_features <= self.max_features:
            raise UsageError(
                f"base_features must lie between 2 and max_features ({self.max_features}), "
                f"it is {self.base_features}."
            )

    def unlike(self, asked: PlanOptions | None) -> dict[str, Any]:
        """The options that differ from what was asked for (None: from the defaults): name -> value."""
        others = asdict(asked or PlanOptions())
        return {name: value for name, value in asdict(self).items() if value != others[name]}
