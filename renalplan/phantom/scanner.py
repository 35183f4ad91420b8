"""The CT scanner: sampling grids, blur, and correlated noise.

The blur in the slice is a Gaussian of 1.3 mm full width (a soft kernel's MTF falls to one half at
about 0.35 per mm); across slices the slice profile is the box of the slice thickness, which the
averaging of fine samples already is. Noise has sd N(12, 4) HU at 1 mm slices and falls with the
root of the thickness; its spectrum in the slice is f * exp(-(f / 0.35)^2), f per mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter1d

from renalplan.errors import UsageError
from renalplan.geometry import Grid, Shape, Spacing
from renalplan.phantom.anatomy import SCAN, Patient, generator
from renalplan.phantom.shapes import Floats

BLUR_FWHM_MM = 1.3
SLICES_MM = (1.0, 1.5, 2.5, 3.0, 5.0)
SLICE_SHARES = (0.2, 0.15, 0.15, 0.2, 0.3)  # near KiTS19's: 5 mm 41 %, 3 mm 18 %, <= 1 mm 24 %
MATRIX = 512
SMALLEST_VOX = 16
LARGEST_VOX = 4096
SPACINGS_MM = (0.05, 50.0)
LOWEST_NOISE_HU = 2.0  # no scan is free of noise, however coarse its voxels
HU_RANGE = (-1024, 3071)  # 12 bits, as scanners store them


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Where a scan's voxels lie in the patient frame.

    Attributes:
        shape: (z, y, x) voxels.
        spacing: (z, y, x) mm.
        origin: (z, y, x) mm of the first voxel's centre.
    """

    shape: Shape
    spacing: Spacing
    origin: tuple[float, float, float]

    @property
    def grid(self) -> Grid:
        """The file header: patient axes, the origin where the drawing has it."""
        return Grid(
            size=self.shape[::-1],
            spacing=self.spacing[::-1],
            origin=self.origin[::-1],
            direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        )


def factors_for(spacing: Spacing) -> tuple[int, int, int]:
    """How many fine samples per voxel and axis: none where surfaces' soft edges suffice."""

    def factor(step: float) -> int:
        return 1 if step <= 1.6 else 2 if step <= 3.3 else 3

    # three samples in plane would cost 2.25 times as much and change no label
    return factor(spacing[0]), min(factor(spacing[1]), 2), min(factor(spacing[2]), 2)


def check_size(size: tuple[int, ...] | None, spacing: tuple[float, ...] | None) -> None:
    """Raise UsageError for sizes and spacings no abdomen can be drawn on."""
    if size is not None and (len(size) != 3 or min(size) < SMALLEST_VOX):
        raise UsageError(
            f"A phantom needs three sizes (z, y, x) of at least {SMALLEST_VOX} voxels, got {size}."
        )
    if size is not None and max(size) > LARGEST_VOX:
        raise UsageError(f"A phantom has at most {LARGEST_VOX} voxels along an axis, got {size}.")
    if spacing is not None and (len(spacing) != 3 or not min(spacing) > 0):
        raise UsageError(f"A phantom needs three spacings (z, y, x) above 0 mm, got {spacing}.")
    if spacing is not None and not (
        SPACINGS_MM[0] <= min(spacing) and max(spacing) <= SPACINGS_MM[1]  # also false for NaN
    ):
        raise UsageError(
            f"A phantom's spacings lie between {SPACINGS_MM[0]:g} and {SPACINGS_MM[1]:g} mm, "
            f"got {spacing}."
        )


def draw_sampling(
    seed: int, index: int, patient: Patient, size: Shape | None, spacing: Spacing | None
) -> Sampling:
    """The voxels of a scan that holds the body in plane and the kidneys in z.

    With both given they are taken as they are; with one given the field of view decides the other.
    """
    rng = generator(seed, index, SCAN)
    low, high = kidney_range(patient)
    length = max(float(rng.uniform(265, 330)), high - low + 24)
    body = 2 * patient.abdomen.half_width
    field = float(np.clip(body * rng.uniform(1.03, 1.12), 340, 400))
    slice_mm = float(rng.choice(SLICES_MM, p=SLICE_SHARES))
    pixel_mm = max(field / MATRIX, float(rng.uniform(0.65, 0.95)) if size is None else 0.0)
    shift = rng.normal(0, (6, 4, 4))  # nobody lies exactly centred
    if size is None:
        spacing = spacing or (slice_mm, pixel_mm, pixel_mm)
        deep = MATRIX if spacing[1] * MATRIX < 500 else round(field / spacing[1])
        wide = MATRIX if spacing[2] * MATRIX < 500 else round(field / spacing[2])
        size = (max(SMALLEST_VOX, round(length / spacing[0])), deep, wide)
    if spacing is None:
        spacing = (length / size[0], field / size[1], field / size[2])
    slack = max(0.0, (size[0] * spacing[0] - (high - low)) / 2 - 8)
    middle = np.array(
        [(low + high) / 2 + np.clip(shift[0], -slack, slack), shift[1] / 2, shift[2] / 2]
    )
    origin = middle - (np.array(size) - 1) / 2 * np.array(spacing)
    return Sampling(
        shape=size,
        spacing=tuple(round(float(step), 6) for step in spacing),  # type: ignore[arg-type]
        origin=tuple(round(float(o), 4) for o in origin),  # type: ignore[arg-type]
    )


def kidney_range(patient: Patient) -> tuple[float, float]:
    """Lowest and highest z of kidneys and tumors, mm."""
    spans = [
        (k.centre[0] - k.half_box()[0], k.centre[0] + k.half_box()[0]) for k in patient.kidneys
    ]
    spans += [(t.centre[0] - t.reach_mm, t.centre[0] + t.reach_mm) for t in patient.tumors]
    return float(min(low for low, _ in spans)), float(max(high for _, high in spans))


def blur(image: Floats, spacing: Spacing) -> Floats:
    """The scanner's blur in the slice; (Z, Y, X) float32."""
    for axis in (1, 2):
        sigma = BLUR_FWHM_MM / 2.355 / spacing[axis]
        if sigma > 0.15:  # narrower ones leave the samples as they are
            image = gaussian_filter1d(image, sigma, axis=axis, truncate=3)
    return image


class Noise:
    """Correlated noise, slice after slice; the same generator gives the same scan."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int], spacing: Spacing) -> None:
        self._rng = rng
        self._shape = shape
        frequency = np.hypot(
            np.fft.fftfreq(shape[0], spacing[1])[:, None],
            np.fft.rfftfreq(shape[1], spacing[2])[None],
        )
        power = frequency * np.exp(-np.square(frequency / 0.35))
        amplitude = np.sqrt(power)
        # unit variance: mean power over the full spectrum, whose right half is mirrored
        weight = np.full(frequency.shape, 2.0)
        weight[:, 0] = 1
        if shape[1] % 2 == 0:
            weight[:, -1] = 1
        mean = float((power * weight).sum() / (shape[0] * shape[1]))
        self._filter = (amplitude / np.sqrt(max(mean, 1e-12))).astype(np.float32)
        strength = float(np.clip(rng.normal(12, 4), 5, 25)) / np.sqrt(spacing[0])
        self.sd_hu = max(LOWEST_NOISE_HU, strength * _kept(spacing[1]))
        self._before: Floats | None = None

    def slices(self, count: int) -> Floats:
        """(count, Y, X) float32 HU; neighbouring slices share some of it."""
        white = self._rng.standard_normal((count, *self._shape), dtype=np.float32)
        result = np.empty_like(white)
        for number in range(count):
            own = fft.irfft2(fft.rfft2(white[number]) * self._filter, s=self._shape)
            if self._before is None:
                self._before = own
            result[number] = np.float32(0.95) * own + np.float32(0.3122) * self._before
            self._before = own
        result *= np.float32(self.sd_hu)
        return result


def _kept(pixel_mm: float) -> float:
    """Share of the noise's sd that is left when it is averaged over pixels of this width."""
    f = np.linspace(0.002, 1.5, 500)
    power = f * f * np.exp(-np.square(f / 0.35))  # one f for the ring's length
    averaged = np.square(np.sinc(f * pixel_mm))
    return float(np.sqrt((power * averaged).sum() / power.sum()))


def to_stored(image: NDArray) -> NDArray[np.int16]:
    """HU as a scanner stores them: whole numbers, clipped."""
    result: NDArray[np.int16] = np.clip(np.rint(image), *HU_RANGE).astype(np.int16)
    return result
