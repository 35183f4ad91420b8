"""Fingerprint -> target spacing, axis order and median shape; and what that spacing loses.

Sources:
    [Isensee2021] nnU-Net, Nature Methods 18, supplement: median spacing, a finer one across the
        slices of anisotropic data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from renalplan.geometry import Spacing
from renalplan.planners.fingerprint import Fingerprint

ANISOTROPIC = 3.0  # spacing and shape both differ by this factor [Isensee2021]
COARSE_AXIS = 1.5  # an axis this much coarser than the others goes first; less is near-isotropic
VOXELS_ACROSS = 2.0  # a structure thinner than two voxels can vanish between samples (Nyquist)

AXES = "zyx"
Order = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class TargetSpacing:
    """Where the images are resampled to, mm along canonical (z, y, x), and why."""

    spacing: Spacing
    reason: str


@dataclass(frozen=True, kw_only=True)
class ThinStructure:
    """A label and its typical thinnest part: median over cases of `Structure.thickness_mm`."""

    name: str
    thickness_mm: float

    @property
    def needed_mm(self) -> float:
        """The coarsest spacing that still puts two voxels across."""
        return self.thickness_mm / VOXELS_ACROSS


def mm(values: Sequence[float | None]) -> str:
    """Spacings as text, such as `3 x 0.78 x 0.78 mm`."""
    return " x ".join("own" if v is None else f"{v:.3g}" for v in values) + " mm"


def target_spacing(
    fingerprint: Fingerprint, wanted: Spacing | None = None, shapes: NDArray | None = None
) -> TargetSpacing:
    """The median spacing; across the slices of clearly anisotropic data the 10th percentile.

    Args:
        fingerprint: Of the dataset.
        wanted: A spacing to take instead, mm along (z, y, x).
        shapes: (case, 3) voxels to judge anisotropy by; those after the crop to non-air if None.
    """
    if wanted is not None:
        return TargetSpacing(spacing=wanted, reason=f"asked for: {mm(wanted)}.")
    spacings = fingerprint.spacings
    target = np.percentile(spacings, 50, axis=0)
    shape = np.percentile(fingerprint.shapes if shapes is None else shapes, 50, axis=0)
    worst = int(np.argmax(target))
    others = [a for a in range(3) if a != worst]
    reason = f"median spacing of {len(spacings)} cases is {mm(target.tolist())}"
    coarse = target[worst] > ANISOTROPIC * target[others].max()
    few = ANISOTROPIC * shape[worst] < shape[others].min()
    if coarse and few:
        tenth = float(np.percentile(spacings[:, worst], 10))
        floor = float(target[others].max()) + 1e-5
        target[worst] = tenth if tenth >= target[others].max() else floor
        reason += (
            f"; along {AXES[worst]} it is over {ANISOTROPIC:g} times coarser, so the 10th "
            f"percentile there, {tenth:.3g} mm, keeps the thin-sliced scans' detail"
        )
    return TargetSpacing(spacing=_spacing(target), reason=reason + ".")


def thin_structures(fingerprint: Fingerprint) -> tuple[ThinStructure, ...]:
    """Every label that occurs with its typical thickness, thinnest first."""
    found = []
    for name in fingerprint.label_names:
        measured = [
            case.structures[name].thickness_mm
            for case in fingerprint.cases
            if name in case.structures
        ]
        values = [value for value in measured if value]
        if values:
            found.append(ThinStructure(name=name, thickness_mm=float(np.median(values))))
    return tuple(sorted(found, key=lambda structure: structure.thickness_mm))


def refine_for_structures(target: TargetSpacing, fingerprint: Fingerprint) -> TargetSpacing:
    """Finer along axes where the thinnest label needs it and the data can give it.

    The 10th percentile of the cases' spacings bounds it: a finer grid would only interpolate.
    """
    structures = thin_structures(fingerprint)
    if not structures:
        return target
    thinnest = structures[0]
    finest = np.percentile(fingerprint.spacings, 10, axis=0)
    spacing, changes = list(target.spacing), []
    for axis, name in enumerate(AXES):
        finer = max(thinnest.needed_mm, float(finest[axis]))
        if finer < spacing[axis] - 1e-6:
            changes.append(f"{name} from {spacing[axis]:.3g} to {finer:.3g} mm")
            spacing[axis] = finer
    if not changes:
        return target
    reason = (
        f"{target.reason} Refined along {', '.join(changes)}: {thinnest.name} is typically "
        f"{thinnest.thickness_mm:.2g} mm thick and should span {VOXELS_ACROSS:g} voxels; the "
        "10th percentile of the scans' spacings is the bound."
    )
    return TargetSpacing(spacing=_spacing(spacing), reason=reason)


def structure_warnings(
    spacing: Sequence[float | None], fingerprint: Fingerprint
) -> tuple[str, ...]:
    """A sentence for each label that spans less than two voxels somewhere; canonical (z, y, x)."""
    found = []
    for structure in thin_structures(fingerprint):
        coarse = [
            f"{name} {value:.3g} mm"
            for name, value in zip(AXES, spacing, strict=True)
            if value is not None and value > structure.needed_mm + 1e-6
        ]
        if coarse:
            found.append(
                f"{structure.name} is typically {structure.thickness_mm:.2g} mm thick but the "
                f"target spacing is {', '.join(coarse)}; less than {VOXELS_ACROSS:g} voxels lie "
                "across it, so parts of it can be lost. A finer spacing helps only if the scans have it."
            )
    return tuple(found)


def coarsest_first(spacing: Spacing) -> Order:
    """nnU-Net's order: the coarsest axis first, the others as they were."""
    worst = int(np.argmax(spacing))
    return (worst, *(a for a in range(3) if a != worst))  # type: ignore[return-value]


def coarse_axis_first(spacing: Spacing) -> tuple[Order, str]:
    """Canonical order unless one axis is really coarser than the others, and the reason."""
    order = coarsest_first(spacing)
    ratio = spacing[order[0]] / max(spacing[a] for a in order[1:])
    if ratio >= COARSE_AXIS:
        return order, (
            f"{AXES[order[0]]} is {ratio:.2g} times coarser than the next axis "
            f"({mm(spacing)}), so it goes first, where networks expect the slices."
        )
    return (0, 1, 2), (
        f"spacing {mm(spacing)} differs by less than {COARSE_AXIS:g} between the coarsest axis and "
        "the next, so slices stay axial."
    )


def median_shape(
    fingerprint: Fingerprint, spacing: Spacing, shapes: NDArray | None = None
) -> NDArray[np.float64]:
    """Median over cases of the shape at this spacing, (z, y, x); may end in .5.

    `shapes` as in `target_spacing`.
    """
    shapes = fingerprint.shapes if shapes is None else shapes
    resampled = np.round(fingerprint.spacings / np.asarray(spacing) * shapes)
    return np.asarray(np.median(resampled, axis=0), np.float64)


def _spacing(values: Sequence[float] | NDArray) -> Spacing:
    z, y, x = (float(v) for v in values)
    return z, y, x
