"""A case -> what its picture shows: masks, grey window, slices, and the part around the structures.

Drawing is left to `figures`; which cases are drawn is decided by `pictures`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renalplan.errors import UsageError
from renalplan.evaluation.space import require_same_space
from renalplan.geometry import Box, Shape, Spacing, grow_box, mask_box, whole_box
from renalplan.images import Volume, read_volume
from renalplan.labels import LabelScheme

CT_WINDOW_HU = (-160.0, 240.0)  # the usual abdominal soft-tissue window: width 400, level 40
CT_AIR_HU = -200.0  # no other kind of scan goes this far below zero; fat in CT is near -100
PERCENTILES = (1.0, 99.0)  # the grey window of anything but CT
MARGIN_MM = 30.0  # of surroundings around the structures: enough to know where one is


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is drawn: arrays of one canonical shape (z, y, x), of which all but one mask may lack.

    Attributes:
        image: Intensities.
        reference: One bool mask for each structure (structure, z, y, x).
        prediction: The same.
        spacing: mm along (z, y, x).
        names: The structures, in order of their colours.
        window: Intensities shown black and white.
        focus: A mask (z, y, x) that chooses the slices in place of the structures.
        start: Where the arrays begin, if they are cut out of a scan: for the slices' numbers.
        whole: Shape of that scan.
        colours: Colour of each structure; empty for the usual ones.
        kinds: Whether the legend tells reference from prediction.
    """

    image: NDArray | None
    reference: NDArray[np.bool_] | None
    prediction: NDArray[np.bool_] | None
    spacing: Spacing
    names: tuple[str, ...]
    window: tuple[float, float] = (0.0, 1.0)
    focus: NDArray[np.bool_] | None = None
    start: Shape = (0, 0, 0)
    whole: Shape | None = None
    colours: tuple[str, ...] = ()
    kinds: bool = True

    @property
    def guide(self) -> NDArray[np.bool_]:
        """The masks that choose the slices: the focus, the reference's, or the prediction's."""
        if self.focus is not None:
            return self.focus[None]
        masks = self.reference
        if masks is None or (not masks.any() and self.prediction is not None):
            masks = self.prediction
        assert masks is not None  # `load_scene` refuses a scene without masks
        return masks

    @property
    def box(self) -> Box:
        """The part that is shown: all structures and a margin, or everything if there are none."""
        masks = [m.any(axis=0) for m in (self.reference, self.prediction) if m is not None]
        union = np.logical_or.reduce(masks)
        box = mask_box(union)
        if box is None:
            return whole_box(union.shape)
        margin = tuple(round(MARGIN_MM / step) for step in self.spacing)
        return grow_box(box, margin, union.shape)


def load_scene(
    image: Path | None,
    prediction: Path | None,
    reference: Path | None,
    scheme: LabelScheme,
    ct: bool | None = None,
) -> Scene:
    """Read a case's files.

    Args:
        image: The scan, if there is one.
        prediction: Label file; at least one of the two is needed.
        reference: Label file.
        scheme: What the label values mean.
        ct: Show the CT window; None tells by the intensities.

    Raises:
        UsageError: neither a prediction nor a reference is given.
        DatasetError: a file is unreadable or lies on another grid than the others.
    """
    volumes: dict[Path, Volume] = {}
    for path in (reference, prediction, image):
        if path is not None and path not in volumes:
            volumes[path] = read_volume(path, labels=path != image)
    if prediction is None and reference is None:
        raise UsageError("a picture needs a prediction or a reference; none was given.")
    first, *others = volumes
    for path in others:
        require_same_space(path, volumes[path].grid, first, volumes[first].grid)
    pixels = None if image is None else volumes[image].array[0]

    def masks(path: Path | None) -> NDArray[np.bool_] | None:
        if path is None:
            return None
        labels = volumes[path].array[0]
        return np.stack([np.isin(labels, values) for values in scheme.foreground.values()])

    return Scene(
        image=pixels,
        reference=masks(reference),
        prediction=masks(prediction),
        spacing=volumes[first].spacing,
        names=tuple(scheme.foreground),
        window=(0.0, 1.0) if pixels is None else grey_window(pixels, ct),
    )


def grey_window(image: NDArray, ct: bool | None) -> tuple[float, float]:
    """Intensities shown black and white; see `load_scene` for `ct`."""
    if ct if ct is not None else float(image.min()) <= CT_AIR_HU:
        return CT_WINDOW_HU
    low, high = (float(v) for v in np.percentile(image, PERCENTILES))
    return low, high if high > low else low + 1.0


def choose_slice(masks: NDArray[np.bool_], axis: int) -> int:
    """The slice through the largest structure that shows the most of all structures.

    Among slices where the largest structure has at least half its greatest area, the one where the
    structures' areas, each relative to its own greatest, have the highest sum.

    Args:
        masks: (structure, z, y, x).
        axis: Canonical axis to cut, 0 to 2.

    Returns:
        Index along `axis`; the middle one if the masks are empty.
    """
    others = tuple(a + 1 for a in range(3) if a != axis)
    areas = masks.sum(axis=others)  # (structure, slice)
    largest = areas[areas.sum(axis=1).argmax()]
    if not largest.any():
        return masks.shape[axis + 1] // 2
    shares = areas / np.maximum(areas.max(axis=1, keepdims=True), 1)
    return int(np.where(2 * largest >= largest.max(), shares.sum(axis=0), -1.0).argmax())
