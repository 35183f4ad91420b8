"""Varies one patch: `draw` says how, the call does it, on the CPU of a worker or on a GPU alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from numpy.random import Generator
from torch import Tensor

from renalplan.geometry import Shape
from renalplan.trainers.corruption import PreviousAsChannels
from renalplan.trainers.intensity import vary_intensities
from renalplan.trainers.randomness import seeded
from renalplan.trainers.spatial import Matrix, cut, make_turn, reach
from renalplan.trainers.variation import (
    LARGEST_SEED,
    Variation,
    draw_intensities,
    draw_matrix,
)

Sample = dict[str, Any]  # image (C, Z, Y, X), labels (channels, Z, Y, X), weights (1, Z, Y, X)


class Transform(Protocol):
    """Varies a patch; see `PatchTransform`."""

    @property
    def on_device(self) -> bool:
        """Whether a GPU can do it."""

    def draw(self, generator: Generator, channels: int) -> Variation:
        """How to vary a patch of an image with so many channels."""

    def reach(self, drawn: Variation) -> Shape:
        """Voxels beyond the patch on each side that this variation would like to see."""

    def __call__(self, sample: Sample, drawn: Variation) -> Sample:
        """The varied patch."""


@dataclass(frozen=True)
class Mirror:
    """Mirrors along random axes; along right-left, paired labels change places.

    Attributes:
        axes: Spatial axes that may be mirrored.
        left_right_axis: The one that runs from right to left.
        pairs: Label values that change places with it.
    """

    axes: tuple[int, ...]
    left_right_axis: int
    pairs: tuple[tuple[int, int], ...]

    def draw(self, generator: Generator) -> tuple[int, ...]:
        """Which axes to mirror, each every other time."""
        return tuple(axis for axis in self.axes if generator.random() < 0.5)

    @staticmethod
    def values(values: Tensor, axes: tuple[int, ...]) -> Tensor:
        """(channels, Z, Y, X), mirrored along spatial axes."""
        return values.flip([1 + axis for axis in axes]) if axes else values

    def labels(self, labels: Tensor, axes: tuple[int, ...]) -> Tensor:
        """(channels, Z, Y, X) label values, mirrored along spatial axes."""
        result = self.values(labels, axes)
        return swap_pairs(result, self.pairs) if self.left_right_axis in axes else result


def swap_pairs(labels: Tensor, pairs: tuple[tuple[int, int], ...]) -> Tensor:
    """Exchange the values of each pair in a label map."""
    result = labels.clone()
    for first, second in pairs:
        result[labels == first] = second
        result[labels == second] = first
    return result


@dataclass(frozen=True)
class Turning:
    """How far and how often patches are turned and scaled, see `draw_matrix`."""

    rotation: float
    degrees: float
    scaling: float
    scales: tuple[float, float]

    def draw(self, generator: Generator, *, in_plane: bool) -> Matrix | None:
        """A matrix, or None."""
        return draw_matrix(
            generator,
            rotation=self.rotation,
            degrees=self.degrees,
            scaling=self.scaling,
            scales=self.scales,
            in_plane=in_plane,
        )


@dataclass(frozen=True)
class PatchTransform:
    """nnU-Net's training transform for one size of patch.

    Attributes:
        patch: Size that comes out.
        values: Label values that may occur besides 0.
        turning: None turns and scales nothing.
        intensity: Whether intensities are varied.
        in_plane: Slices are far apart: turn, scale and lose resolution within them only.
        mirror: None mirrors nothing.
        previous: A cascade's second label channel becomes image channels; None without one.
    """

    patch: Shape
    values: tuple[int, ...]
    turning: Turning | None = None
    intensity: bool = False
    in_plane: bool = False
    mirror: Mirror | None = None
    previous: PreviousAsChannels | None = None

    @property
    def on_device(self) -> bool:
        """Whether a GPU can do it; corrupting a cascade's labels it cannot."""
        return self.previous is None or not self.previous.corrupt

    def draw(self, generator: Generator, channels: int) -> Variation:
        """How to vary a patch of an image with so many channels."""
        matrix = self.turning.draw(generator, in_plane=self.in_plane) if self.turning else None
        drawn = draw_intensities(generator, channels) if self.intensity else Variation()
        mirrored = self.mirror.draw(generator) if self.mirror else ()
        corrupts = self.previous is not None and self.previous.corrupt
        corruption = int(generator.integers(LARGEST_SEED)) if corrupts else None
        return replace(drawn, matrix=matrix, mirrored=mirrored, corruption=corruption)

    def reach(self, drawn: Variation) -> Shape:
        """Voxels beyond the patch on each side that this variation would like to see."""
        return reach(drawn.matrix, self.patch)

    @torch.no_grad()
    def __call__(self, sample: Sample, drawn: Variation) -> Sample:
        """The varied patch, on the sample's device; the sample itself stays as it is.

        Args:
            sample: `image` (C, …) of any real type; `labels` (channels, …) and `weights` (1, …) if
                there are any: the patch with an equal margin on both sides of each axis.
            drawn: What to do.

        Returns:
            The same names: (…, *patch), images and weights float32, labels as they were.
        """
        result = self._turned(sample, drawn)
        image: Tensor = result["image"]
        vary_intensities(image, drawn, in_plane=self.in_plane)
        result["image"] = Mirror.values(image, drawn.mirrored)
        if "weights" in result:
            result["weights"] = Mirror.values(result["weights"], drawn.mirrored)
        if self.mirror is not None and "labels" in result:
            result["labels"] = self.mirror.labels(result["labels"], drawn.mirrored)
        if self.previous is not None and "labels" in result:
            image, result["labels"] = self.previous(result["image"], result["labels"])
            if drawn.corruption is not None:
                with seeded(drawn.corruption):
                    image = self.previous.corrupted(image)
            result["image"] = image
        return result

    def _turned(self, sample: Sample, drawn: Variation) -> Sample:
        if drawn.matrix is None:
            kinds = {name: torch.float32 for name in sample} | {
                name: value.dtype for name, value in sample.items() if name == "labels"
            }
            return {
                name: cut(value, self.patch).to(kinds[name], copy=True)
                for name, value in sample.items()
            }
        image: Tensor = sample["image"]
        turn = make_turn(tuple(image.shape[1:]), drawn.matrix, self.patch, image.device)
        result: Sample = {"image": torch.stack(list(turn.linear(image)))}
        if "labels" in sample:
            result["labels"] = torch.stack([turn.labels(c, self.values) for c in sample["labels"]])
        if "weights" in sample:
            result["weights"] = torch.stack([turn.nearest(w) for w in sample["weights"]])
        return result
