"""How one training patch is varied: drawn once, plain numbers, applied on whatever device.

Probabilities and ranges are nnU-Net's [Isensee2021], as batchgeneratorsv2 draws them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from renalplan.trainers.spatial import Matrix, plane_matrix, turn_matrix

NOISE, NOISE_SD = 0.1, (0.0, 0.1)
BLUR, BLUR_CHANNEL, BLUR_SIGMA = 0.2, 0.5, (0.5, 1.0)
BRIGHTNESS, BRIGHTNESS_FACTOR = 0.15, (0.75, 1.25)
CONTRAST, CONTRAST_FACTOR = 0.15, (0.75, 1.25)
COARSE, COARSE_CHANNEL, COARSE_SCALE = 0.25, 0.5, (0.5, 1.0)
INVERTED_GAMMA, GAMMA, EXPONENT = 0.1, 0.3, (0.7, 1.5)
LARGEST_SEED = 2**62


@dataclass(frozen=True)
class Variation:
    """What was drawn for one patch; the default changes nothing.

    Attributes:
        matrix: Offset from the patch's centre -> offset in what was read, (z, y, x) voxels; None
            cuts the patch out as it is.
        noise: Standard deviation of the noise, the same for all channels; 0 adds none.
        noise_seed: Decides the noise, one stream a kind of device.
        blur: For each channel the standard deviations along (z, y, x), voxels, None for a sharp one;
            empty if no channel is blurred. So for the rest:
        brightness: For each channel its factor.
        contrast: For each channel its factor.
        coarse: For each channel the scale that its voxels are thinned out by; 1 keeps them all.
        inverted_gamma: For each channel the exponent of the inverted intensities.
        gamma: For each channel the exponent of its intensities.
        mirrored: Spatial axes to mirror.
        corruption: Seed of a cascade's corrupted labels; None leaves them as they are.
    """

    matrix: Matrix | None = None
    noise: float = 0.0
    noise_seed: int = 0
    blur: tuple[tuple[float, float, float] | None, ...] = ()
    brightness: tuple[float, ...] = ()
    contrast: tuple[float, ...] = ()
    coarse: tuple[float, ...] = ()
    inverted_gamma: tuple[float, ...] = ()
    gamma: tuple[float, ...] = ()
    mirrored: tuple[int, ...] = ()
    corruption: int | None = None


def draw_matrix(
    generator: Generator,
    *,
    rotation: float,
    degrees: float,
    scaling: float,
    scales: tuple[float, float],
    in_plane: bool,
) -> Matrix | None:
    """A turn about each axis (or in the plane), then one scale for all axes; None if there is neither.

    Args:
        generator: Where numbers come from.
        rotation: Probability of turning.
        degrees: Largest angle.
        scaling: Probability of scaling.
        scales: Smallest and largest; above 1 shows more and everything smaller.
        in_plane: Turn and scale slices only.
    """
    turns, grows = generator.random() < rotation, generator.random() < scaling
    limit = np.deg2rad(degrees)
    angles = generator.uniform(-limit, limit, 3) if turns else np.zeros(3)
    scale = float(generator.uniform(*scales)) if grows else 1.0
    if not (turns or grows):
        return None
    return plane_matrix(float(angles[2]), scale) if in_plane else turn_matrix(angles, scale)


def draw_intensities(generator: Generator, channels: int) -> Variation:
    """Noise, blur, brightness, contrast, resolution and gamma for an image of so many channels."""

    def each(probability: float, draw: Callable[[], float]) -> tuple[float, ...]:
        if generator.random() >= probability:
            return ()
        return tuple(draw() for _ in range(channels))

    def scale() -> float:
        return float(generator.uniform(*COARSE_SCALE)) if chance(COARSE_CHANNEL) else 1.0

    def chance(probability: float) -> bool:
        return bool(generator.random() < probability)

    noise = float(generator.uniform(*NOISE_SD)) if chance(NOISE) else 0.0
    sigmas = [_sigmas(generator) for _ in range(channels)] if chance(BLUR) else []
    return Variation(
        noise=noise,
        noise_seed=int(generator.integers(LARGEST_SEED)) if noise else 0,
        blur=tuple(sigmas) if any(sigmas) else (),
        brightness=each(BRIGHTNESS, lambda: _either_side(generator, *BRIGHTNESS_FACTOR)),
        contrast=each(CONTRAST, lambda: _either_side(generator, *CONTRAST_FACTOR)),
        coarse=each(COARSE, scale),
        inverted_gamma=each(INVERTED_GAMMA, lambda: _either_side(generator, *EXPONENT)),
        gamma=each(GAMMA, lambda: _either_side(generator, *EXPONENT)),
    )


def _sigmas(generator: Generator) -> tuple[float, float, float] | None:
    if generator.random() >= BLUR_CHANNEL:
        return None
    z, y, x = generator.uniform(*BLUR_SIGMA, 3).tolist()
    return z, y, x


def _either_side(generator: Generator, low: float, high: float) -> float:
    """Below 1 as often as above, however far each side reaches."""
    below = generator.random() < 0.5
    return float(generator.uniform(low, 1.0) if below else generator.uniform(1.0, high))
