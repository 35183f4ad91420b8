"""Cases -> Fingerprint: what the planner needs to know about a dataset, measured once per case."""

from __future__ import annotations

from typing import Any

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from renalplan.case_labels import read_labels
from renalplan.dataset import Case
from renalplan.errors import DatasetError
from renalplan.files import Record
from renalplan.geometry import Box, Spacing, box_shape, box_slices, mask_box
from renalplan.images import Volume, read_channels
from renalplan.labels import LabelScheme, values_in
from renalplan.pieces import number_pieces
from renalplan.plan import Intensities
from renalplan.preprocessing import body_box

SAMPLES_PER_CASE = 20_000  # voxels a case and channel; every case weighs the same
SEED = 1234
COARSE_MM = 2.0  # components are counted on a grid no finer than this


class Component(Record):
    """A connected piece of foreground.

    Attributes:
        volume_ml: Its volume.
        box_mm: Its box as (z0, y0, x0, z1, y1, x1), mm from the cropped image's first corner.
    """

    volume_ml: float
    box_mm: tuple[float, float, float, float, float, float]


class Structure(Record):
    """One label or region of one case; thickness is None where the structure is absent.

    Attributes:
        volume_ml: Its volume.
        thickness_mm: The local thickness that 10 % of its volume stays below.
    """

    volume_ml: float
    thickness_mm: float | None


class CaseFingerprint(Record):
    """What one case contributes.

    Attributes:
        spacing: mm along (z, y, x).
        shape: Voxels of the whole image (z, y, x).
        shape_after_crop: Voxels after cropping to non-air.
        shape_nonzero: Voxels after nnU-Net's crop to non-zero, which leaves CT as it is; its
            planning rules are stated for these.
        foreground_share: Foreground voxels over cropped voxels.
        structures: Label or region name -> its size and thickness.
        components: Connected foreground, largest first.
        foreground_box_mm: Box of all foreground, as in `Component`; None if there is none.
    """

    id: str
    spacing: Spacing
    shape: tuple[int, int, int]
    shape_after_crop: tuple[int, int, int]
    shape_nonzero: tuple[int, int, int]
    foreground_share: float
    structures: dict[str, Structure]
    components: tuple[Component, ...]
    foreground_box_mm: tuple[float, float, float, float, float, float] | None


class Fingerprint(Record):
    """A dataset in numbers.

    Attributes:
        intensities: For each channel, foreground statistics over equal samples of every case.
        inputs: Case -> content hash of its files: tells whether this fingerprint is out of date.
    """

    dataset: str
    cases: tuple[CaseFingerprint, ...] = Field(min_length=1)
    channel_names: tuple[str, ...]
    label_names: tuple[str, ...]
    heads: int
    intensities: tuple[Intensities, ...]
    inputs: dict[str, str] = Field(default_factory=dict)

    @property
    def spacings(self) -> NDArray[np.float64]:
        """(case, 3) mm along (z, y, x)."""
        return np.asarray([case.spacing for case in self.cases], float)

    @property
    def shapes_nonzero(self) -> NDArray[np.int64]:
        """(case, 3) voxels after nnU-Net's crop along (z, y, x)."""
        return np.asarray([case.shape_nonzero for case in self.cases], np.int64)

    @property
    def shapes(self) -> NDArray[np.int64]:
        """(case, 3) voxels after crop along (z, y, x)."""
        return np.asarray([case.shape_after_crop for case in self.cases], np.int64)


def measure_case(case: Case, scheme: LabelScheme) -> tuple[CaseFingerprint, NDArray[np.float32]]:
    """Read one training case and measure it.

    Returns:
        The case's numbers, and (channel, n) sampled foreground intensities (n may be 0).

    Raises:
        DatasetError: a file cannot be read, image and label do not share a grid, or the label map
            holds a value that dataset.json does not declare.
    """
    volume = read_channels(case.images)
    labels = read_labels(case, volume)
    assert labels is not None, "training cases have labels or boxes"
    if unknown := sorted(set(values_in(labels)) - set(scheme.all_values)):
        raise DatasetError(
            f"{case.label} holds label values {unknown} that dataset.json does not declare "
            f"(it declares {list(scheme.all_values)})."
        )
    return measure_volume(case.id, volume, labels, scheme)


def measure_volume(
    case_id: str, volume: Volume, labels: NDArray, scheme: LabelScheme
) -> tuple[CaseFingerprint, NDArray[np.float32]]:
    """Measure a case already in memory; see `measure_case`."""
    box = body_box(volume.array)
    image, labels = volume.array[(..., *box_slices(box))], labels[box_slices(box)]
    mask = scheme.foreground_mask(labels)
    inner = mask_box(mask)
    spacing = volume.spacing
    samples = _sample(image, mask, inner)
    fingerprint = CaseFingerprint(
        id=case_id,
        spacing=spacing,
        shape=volume.shape,
        shape_after_crop=box_shape(box),
        shape_nonzero=box_shape(_nonzero_box(volume.array) or box),
        foreground_share=float(np.count_nonzero(mask) / mask.size),
        structures={
            name: _structure(labels, values, spacing) for name, values in scheme.foreground.items()
        },
        components=_components(mask, spacing),
        foreground_box_mm=_millimetres(inner, spacing) if inner else None,
    )
    return fingerprint, samples


def combine(
    dataset: str,
    channel_names: tuple[str, ...],
    scheme: LabelScheme,
    cases: list[tuple[CaseFingerprint, NDArray[np.float32]]],
    inputs: dict[str, str],
) -> Fingerprint:
    """Pool the cases' numbers.

    Raises:
        DatasetError: no case has any foreground.
    """
    pooled = [samples for _, samples in cases if samples.shape[1]]
    if not pooled:
        raise DatasetError(f"{dataset}: no training label has any foreground; nothing to learn.")
    values = np.concatenate(pooled, axis=1).astype(np.float64)
    return Fingerprint(
        dataset=dataset,
        cases=tuple(sorted((case for case, _ in cases), key=lambda case: case.id)),
        channel_names=channel_names,
        label_names=tuple(scheme.foreground),
        # nnU-Net counts dataset.json's entries: background and one a label or region
        heads=len(scheme.foreground) + 1,
        intensities=tuple(_intensities(channel) for channel in values),
        inputs=inputs,
    )


def _intensities(values: NDArray[np.float64]) -> Intensities:
    low, median, high = np.percentile(values, (0.5, 50, 99.5))
    return Intensities(
        mean=float(values.mean()),
        std=float(values.std()),
        minimum=float(values.min()),
        maximum=float(values.max()),
        median=float(median),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
    )


def _nonzero_box(image: NDArray) -> Box | None:
    mask = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    return mask_box(mask)


def _sample(image: NDArray, mask: NDArray[np.bool_], inner: Any) -> NDArray[np.float32]:
    """Foreground intensities drawn with replacement, so that every case weighs the same."""
    if inner is None:
        return np.empty((image.shape[0], 0), np.float32)
    positions = np.flatnonzero(mask[box_slices(inner)])
    chosen = np.random.default_rng(SEED).choice(positions, SAMPLES_PER_CASE)
    cropped = image[(..., *box_slices(inner))].reshape(image.shape[0], -1)
    return np.asarray(cropped[:, chosen], np.float32)


def _structure(labels: NDArray, values: tuple[int, ...], spacing: Spacing) -> Structure:
    mask = labels == values[0] if len(values) == 1 else np.isin(labels, values)
    box = mask_box(mask)
    if box is None:
        return Structure(volume_ml=0.0, thickness_mm=None)
    mask = np.pad(mask[box_slices(box)], 1)
    volume = float(np.count_nonzero(mask) * np.prod(spacing) / 1000)
    depth = edt.edt(mask, anisotropy=spacing, parallel=1)
    ridge = mask & (depth >= ndimage.maximum_filter(depth, size=3) - 1e-6)
    # Weighted by the cross-section each ridge voxel stands for: a kidney's surface has many small
    # bumps, which say nothing about its thickness.
    ridges = depth[ridge]
    thin = np.percentile(ridges, 10, weights=ridges**2, method="inverted_cdf")
    # depth reaches to the centre of the nearest outer voxel, half a voxel beyond the surface
    thickness = 2 * float(thin) - min(spacing)
    return Structure(volume_ml=volume, thickness_mm=thickness)


def _components(mask: NDArray[np.bool_], spacing: Spacing) -> tuple[Component, ...]:
    """Connected foreground on a thinned grid: kidneys are far larger than two millimetres."""
    steps = tuple(max(1, int(COARSE_MM / s)) for s in spacing)
    thin = np.ascontiguousarray(mask[:: steps[0], :: steps[1], :: steps[2]])
    thin_spacing = np.asarray(spacing) * steps
    pieces = number_pieces(thin)
    statistics = cc3d.statistics(pieces)
    found = []
    for number in range(1, len(statistics["voxel_counts"])):
        bounds = tuple((s.start, s.stop) for s in statistics["bounding_boxes"][number])
        volume = float(statistics["voxel_counts"][number] * thin_spacing.prod() / 1000)
        found.append(Component(volume_ml=volume, box_mm=_millimetres(bounds, tuple(thin_spacing))))
    return tuple(sorted(found, key=lambda piece: -piece.volume_ml)[:20])


def _millimetres(box: Any, spacing: Any) -> tuple[float, float, float, float, float, float]:
    starts = [float(start * s) for (start, _), s in zip(box, spacing, strict=True)]
    stops = [float(stop * s) for (_, stop), s in zip(box, spacing, strict=True)]
    return (*starts, *stops)  # type: ignore[return-value]
