"""Class probabilities on a scan's own grid, made slab by slab when somebody looks.

A field keeps the network's logits on the (smaller) grid of its plan. Asking for some slices
resamples just those, so memory grows neither with the scan's resolution nor with the number of
classes times its voxels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from renalplan.entropy import entropy
from renalplan.geometry import Box, Shape, box_shape
from renalplan.inference.decisions import Decisions
from renalplan.labels import LabelScheme
from renalplan.plane_resampling import Planes, resample_planes

SLAB_BYTES = 32 << 20  # probabilities of one slab


class SlabTaker(Protocol):
    """Makes something of a scan's probabilities, some slices at a time."""

    def add(
        self,
        start: int,
        stop: int,
        probabilities: Tensor,
        disagreement: Tensor | None,
        labels: NDArray,
    ) -> None:
        """Take slices start to stop: probabilities (heads, n, y, x), the others (n, y, x)."""
        ...


def slab_ranges(heads: int, shape: Shape) -> Iterator[tuple[int, int]]:
    """Ranges along the first axis whose float32 probabilities take `SLAB_BYTES` at most."""
    height = max(1, SLAB_BYTES // (4 * heads * shape[1] * shape[2]))
    for start in range(0, shape[0], height):
        yield start, min(start + height, shape[0])


class ProbabilityField(ABC):
    """Probabilities of every head over a canonical (z, y, x) scan grid.

    Attributes:
        shape: The scan's canonical shape.
        heads: Number of heads.
        decisions: What the segmenter's rules decided for this scan; None if it has no rules.
    """

    shape: Shape
    heads: int
    decisions: Decisions | None = None

    @abstractmethod
    def slab(self, start: int, stop: int) -> Tensor:
        """(heads, stop - start, y, x) float32 probabilities of some slices."""

    def detailed(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """`slab`, and (stop - start, y, x) how far the networks disagree in bits, if that was asked."""
        return self.slab(start, stop), None

    def slabs(self) -> Iterator[tuple[int, int]]:
        """Slice ranges of bounded memory that cover the scan."""
        return slab_ranges(self.heads, self.shape)

    def labels(self, scheme: LabelScheme, takers: Sequence[SlabTaker] = ()) -> NDArray:
        """The label map (z, y, x) that the probabilities decide on; takers see them on the way."""
        labels = scheme.empty(self.shape)
        for start, stop in self.slabs():
            probabilities, disagreement = self.detailed(start, stop)
            labels[start:stop] = scheme.decide(probabilities.numpy())
            for taker in takers:
                taker.add(start, stop, probabilities, disagreement, labels[start:stop])
        return labels


@dataclass(frozen=True)
class RegionLogits:
    """A network's logits (heads, z, y, x; canonical axes, plan spacing) for one box of the scan.

    What follows the heads is the networks' disagreement.
    """

    box: Box
    logits: Planes


class RegionField(ProbabilityField):
    """Logits inside boxes; outside everything is background.

    Attributes:
        regions: What the network said in each box; where boxes overlap, the mean counts.
        exclusive: Softmax over heads (background first) instead of a sigmoid each.
        disagrees: Whether the regions hold the networks' disagreement too.
    """

    def __init__(
        self,
        shape: Shape,
        heads: int,
        regions: list[RegionLogits],
        *,
        exclusive: bool,
        disagrees: bool = False,
    ) -> None:
        self.shape = shape
        self.heads = heads
        self.regions = regions
        self.exclusive = exclusive
        self.disagrees = disagrees

    def slab(self, start: int, stop: int) -> Tensor:
        """See `ProbabilityField.slab`."""
        return self.detailed(start, stop)[0]

    def detailed(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """See `ProbabilityField.detailed`."""
        result = torch.zeros((self.heads, stop - start, *self.shape[1:]))
        disagreement = torch.zeros(result.shape[1:]) if self.disagrees else None
        seen = torch.zeros(result.shape[1:], dtype=torch.uint8)
        for region in self.regions:
            (z0, z1), (y0, y1), (x0, x1) = region.box
            first, last = max(start, z0), min(stop, z1)
            if first >= last:
                continue
            made = resample_planes(
                region.logits, slice(first - z0, last - z0), box_shape(region.box)
            )
            logits, rest = made[: self.heads], made[self.heads :]
            values = logits.softmax(0) if self.exclusive else logits.sigmoid()
            part = (slice(first - start, last - start), slice(y0, y1), slice(x0, x1))
            result[(slice(None), *part)] += values
            seen[part] += 1
            if disagreement is not None:
                disagreement[part] += rest[0].clamp_min(0)
        if seen.max() > 1:
            result /= seen.clamp_min(1)
            if disagreement is not None:
                disagreement /= seen.clamp_min(1)
        if self.exclusive:
            result[0][seen == 0] = 1
        return result, disagreement


class MeanField(ProbabilityField):
    """The (weighted) mean of several members' probabilities, e.g. of different trainers.

    Their disagreement is the mean of the members' own plus that between them, so that it is what one
    ensemble of all their networks would have [Depeweg2018].
    """

    def __init__(
        self,
        members: list[ProbabilityField],
        weights: list[float] | None = None,
        *,
        exclusive: bool = True,
    ) -> None:
        self.members = members
        self.weights = weights or [1.0] * len(members)
        self.shape = members[0].shape
        self.heads = members[0].heads
        self.exclusive = exclusive

    def slab(self, start: int, stop: int) -> Tensor:
        """See `ProbabilityField.slab`."""
        return self.detailed(start, stop)[0]

    def detailed(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """See `ProbabilityField.detailed`."""
        total = torch.zeros((self.heads, stop - start, *self.shape[1:]))
        inside: Tensor | None = torch.zeros(total.shape[1:])
        entropies = torch.zeros(total.shape[1:])
        for member, weight in zip(self.members, self.weights, strict=True):
            part, disagreement = member.detailed(start, stop)
            share = weight / sum(self.weights)
            total += part * share
            if disagreement is None or inside is None:
                inside = None
                continue
            inside += disagreement * share
            entropies += entropy(part, exclusive=self.exclusive)[0] * share
        if inside is None:
            return total, None
        between = entropy(total, exclusive=self.exclusive)[0] - entropies
        return total, inside + between.clamp_min(0)
