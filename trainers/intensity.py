"""Noise, blur, brightness, contrast, resolution and gamma of (channels, Z, Y, X), on any device.

Every function changes its image in place, and never asks the device for a number: on a GPU nothing
waits.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from renalplan.trainers.variation import Variation

EPSILON = 1e-7
TRUNCATE = 6.0  # a blur's kernel is about so many standard deviations wide, as batchgeneratorsv2's


def vary_intensities(image: Tensor, drawn: Variation, *, in_plane: bool) -> None:
    """All that was drawn, in nnU-Net's order.

    Args:
        image: (C, Z, Y, X) float32, changed in place.
        drawn: What to do.
        in_plane: Resolution is only lost within slices.
    """
    if drawn.noise:
        add_noise(image, drawn.noise, drawn.noise_seed)
    for channel, sigmas in zip(image, drawn.blur, strict=False):
        if sigmas:
            channel.copy_(blurred(channel, sigmas))
    for channel, factor in zip(image, drawn.brightness, strict=False):
        channel.mul_(factor)
    for channel, factor in zip(image, drawn.contrast, strict=False):
        change_contrast(channel, factor)
    for channel, scale in zip(image, drawn.coarse, strict=False):
        if scale < 1:
            channel.copy_(coarsened(channel, scale, in_plane=in_plane))
    for channel, exponent in zip(image, drawn.inverted_gamma, strict=False):
        bend(channel.neg_(), exponent)
        channel.neg_()
    for channel, exponent in zip(image, drawn.gamma, strict=False):
        bend(channel, exponent)


def add_noise(image: Tensor, deviation: float, seed: int) -> None:
    """Gaussian noise; the same for the same seed on the same kind of device."""
    generator = torch.Generator(image.device).manual_seed(seed)
    noise = torch.randn(image.shape, generator=generator, device=image.device)
    image.add_(noise, alpha=deviation)


def blurred(volume: Tensor, sigmas: tuple[float, float, float]) -> Tensor:
    """Gaussian blur of (Z, Y, X), mirrored at its borders; an axis of one voxel is left alone.

    As sums of moved volumes: kernels of at most seven voxels are no work for a convolution.
    """
    for axis, sigma in enumerate(sigmas):
        size = volume.shape[axis]
        if size == 1:
            continue
        kernel = gaussian_kernel(sigma)
        radius = len(kernel) // 2
        place = np.arange(-radius, size + radius) % (2 * size - 2)  # mirrored, border voxels once
        mirrored = np.minimum(place, 2 * size - 2 - place)
        wide = _taken(volume, mirrored, axis, radius)
        result = wide.narrow(axis, radius, size) * float(kernel[radius])
        for step in range(radius):
            both = wide.narrow(axis, step, size) + wide.narrow(axis, 2 * radius - step, size)
            result.add_(both, alpha=float(kernel[step]))
        volume = result
    return volume


def _taken(volume: Tensor, mirrored: NDArray[np.int64], axis: int, radius: int) -> Tensor:
    """The volume with `radius` mirrored voxels on either side; only those are looked up by number."""
    size = volume.shape[axis]
    sides = [
        torch.cat([volume.narrow(axis, int(place), 1) for place in part], axis)
        for part in (mirrored[:radius], mirrored[size + radius :])
    ]
    return torch.cat([sides[0], volume, sides[1]], axis)


def gaussian_kernel(sigma: float) -> NDArray[np.float32]:
    """An odd number of weights that sum to one."""
    wanted = sigma * TRUNCATE + 0.5
    size = round(wanted)
    if size % 2 == 0:
        size += 1 if wanted >= size else -1
    offsets = np.arange(size) - size // 2
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def change_contrast(volume: Tensor, factor: float) -> None:
    """Distances from the mean times a factor, cut off at the range there was."""
    mean, (lowest, highest) = volume.mean(), torch.aminmax(volume)
    volume.sub_(mean).mul_(factor).add_(mean).clamp_(lowest, highest)


def coarsened(volume: Tensor, scale: float, *, in_plane: bool) -> Tensor:
    """As if (Z, Y, X) had been scanned with fewer voxels: the nearest ones, interpolated back."""
    size = list(volume.shape)
    fewer = [max(1, round(n * scale)) for n in size]
    if in_plane:
        fewer[0] = size[0]
    few = interpolate(volume[None, None], fewer, mode="nearest-exact")
    back: Tensor = interpolate(few, size, mode="trilinear")[0, 0]
    return back


def bend(volume: Tensor, exponent: float) -> None:
    """Intensities within their range to a power; mean and standard deviation stay what they were."""
    mean, deviation = volume.mean(), volume.std()
    lowest, highest = torch.aminmax(volume)
    extent = highest - lowest
    volume.sub_(lowest).div_(extent.clamp_min(EPSILON)).pow_(exponent)
    volume.mul_(extent).add_(lowest)
    new_mean, new_deviation = volume.mean(), volume.std()
    volume.sub_(new_mean).mul_(deviation / new_deviation.clamp_min(EPSILON)).add_(mean)
