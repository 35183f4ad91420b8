"""Which patch comes next: a pure function of (seed, step, place in the batch).

Nothing is remembered between steps, so a resumed run sees the data an uninterrupted one sees,
whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from renalplan.geometry import Shape
from renalplan.store import ANNOTATED, ItemArrays
from renalplan.trainers.drawn import DrawnSource
from renalplan.trainers.randomness import seeded
from renalplan.trainers.transform import Sample, Transform
from renalplan.trainers.variation import Variation

Reader = Callable[[ItemArrays, tuple[int, ...], tuple[int, ...]], NDArray]


class BatchSource(Protocol):
    """Anything that makes batch number `step`; the loop asks for 0, 1, 2 …"""

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """Tensors of one training step, always the same for the same step."""


SourceType = TypeVar("SourceType", bound="PatchSource")


@dataclass(frozen=True)
class PatchSource(DrawnSource):
    """Random patches of stored cases, some forced to hold foreground.

    Its batches are images (B, C, *patch) float32 and labels (B, 1, *patch) int16; with `weights`, also
    what each voxel weighs, (B, 1, *patch) float32.

    Attributes:
        items: Stored arrays to draw from; every case is equally likely, then every item of it.
        patch: Size after augmentation.
        margin: Most voxels read beyond the patch on each side, for the transform to turn in; without
            a transform they are read and kept.
        batch_size: Samples a batch.
        foreground_share: Share of a batch that must hold foreground: the last
            `batch_size - round(batch_size * (1 - share))` samples [Isensee2021]; with single
            samples, that share of the steps.
        transform: Varies one sample and cuts it to `patch`.
        seed: With the step it decides everything.
        extra: Reads further label channels for (item, start, size), e.g. a cascade's
            previous stage.
        weights: Reads what each voxel weighs for (item, start, size); 0 beyond the image.
        places: Which samples of a batch are made; None makes all.
    """

    items: tuple[ItemArrays, ...]
    patch: Shape
    margin: Shape
    batch_size: int
    foreground_share: float
    transform: Transform | None
    seed: int
    extra: Reader | None = None
    weights: Reader | None = None
    places: range | None = None

    @property
    def halvable(self) -> bool:
        """See `DrawnSource.halvable`."""
        return self.transform is not None and self.transform.on_device

    def become(self, kind: type[SourceType], **more: Any) -> SourceType:
        """A source of another kind that draws from the same items in the same way, and knows more."""
        return kind(
            **{name: getattr(self, name) for name in PatchSource.__dataclass_fields__}, **more
        )

    def _begin(self, step: int, place: int) -> tuple[Sample, Variation | None]:
        with seeded(self.seed, step, place) as generator:
            return self.plan(*self.draw(generator, self.wanted(step, place)), generator)

    def sample(self, item: ItemArrays, corner: tuple[int, ...], generator: Generator) -> Sample:
        """The varied patch there."""
        return self._vary(*self.plan(item, corner, generator))

    def plan(
        self, item: ItemArrays, corner: tuple[int, ...], generator: Generator
    ) -> tuple[Sample, Variation | None]:
        """The patch there with as much around it as its variation needs, and that variation."""
        margin, drawn = self.margin, None
        if self.transform is not None:
            drawn = self.transform.draw(generator, item.channel_count)
            margin = within(self.transform.reach(drawn), self.margin)
        image, labels = self.read(item, corner, margin)
        sample = {
            "image": torch.from_numpy(image),
            "labels": torch.from_numpy(labels.astype(np.int16)),
        }
        if self.weights is not None:
            values = self.weights(item, *with_margin(corner, self.patch, margin))
            sample["weights"] = torch.from_numpy(values.astype(np.float32))
        return sample, drawn

    def _vary(self, sample: Sample, drawn: Variation | None) -> Sample:
        if self.transform is None or drawn is None:
            return sample | {"image": sample["image"].float()}
        return self.transform(sample, drawn)

    def read(
        self, item: ItemArrays, corner: tuple[int, ...], margin: Shape
    ) -> tuple[NDArray, NDArray]:
        """Image (C, …), of the type it is stored in, and labels (channels, …), with a margin."""
        start, size = with_margin(corner, self.patch, margin)
        image, labels = item.stored_patch(start, size)
        if self.extra is not None:
            labels = np.concatenate([labels, self.extra(item, start, size)])
        return image, labels

    def wanted(self, step: int, place: int) -> int:
        """What a sample must hold: 0 anything, 1 foreground. A subclass may tell more apart."""
        share = self.foreground_share
        if self.batch_size == 1:
            return int((step + 1) * share) > int(step * share)
        return place >= round(self.batch_size * (1 - share))

    def draw(self, generator: Generator, wanted: int) -> tuple[ItemArrays, tuple[int, ...]]:
        """An item and the corner of a patch in it."""
        item = draw_item(self.items, generator)
        return item, self.corner(item, self.voxel(item, generator, bool(wanted)), generator)

    def corner(
        self, item: ItemArrays, voxel: NDArray[np.int32] | None, generator: Generator
    ) -> tuple[int, ...]:
        """Where in an item a patch begins, to hold this voxel if there is one."""
        if voxel is None:
            return random_corner(item.item.shape, self.patch, generator)
        return corner_around(voxel, item.item.shape, self.patch, generator)

    @staticmethod
    def voxel(item: ItemArrays, generator: Generator, forced: bool) -> NDArray[np.int32] | None:
        """What the patch must hold: a structure's voxel if `forced`; else None, or an annotated
        voxel where a dataset has an ignore label, since a patch without one teaches nothing.
        """
        counts = item.item.structures
        present = [name for name, count in counts.items() if count and name != ANNOTATED]
        if not (forced and present):
            present = [ANNOTATED] if counts.get(ANNOTATED) else []
        if not present:
            return None
        places = item.places[present[generator.integers(len(present))]]
        return np.asarray(places[generator.integers(len(places))])


def draw_item(items: tuple[ItemArrays, ...], generator: Generator) -> ItemArrays:
    """Every case is equally likely, then every item of it."""
    by_case: dict[str, list[ItemArrays]] = {}
    for item in items:
        by_case.setdefault(item.case, []).append(item)
    case = list(by_case)[generator.integers(len(by_case))]
    return by_case[case][generator.integers(len(by_case[case]))]


def with_margin(
    corner: tuple[int, ...], patch: tuple[int, ...], margin: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Start and size of what is read for a patch at this corner, its margin on each side included."""
    start = tuple(c - m for c, m in zip(corner, margin, strict=True))
    return start, tuple(p + 2 * m for p, m in zip(patch, margin, strict=True))


def within(wanted: Shape, most: Shape) -> Shape:
    """What is wanted along each axis, but no more than that."""
    z, y, x = (min(a, b) for a, b in zip(wanted, most, strict=True))
    return z, y, x


def corner_around(
    voxel: NDArray, shape: tuple[int, ...], patch: tuple[int, ...], generator: Generator
) -> tuple[int, ...]:
    """A patch that holds the voxel at a uniformly random place, inside the image where it fits.

    nnU-Net centres the patch on the voxel, so that a network only ever sees small structures in the
    middle and loses them elsewhere.
    """
    corner = []
    for position, size, length in zip(voxel, shape, patch, strict=True):
        start = int(position) - int(generator.integers(length))
        inside = min(max(start, 0), size - length)
        corner.append(inside if size > length else (size - length) // 2)
    return tuple(corner)


def random_corner(
    shape: tuple[int, ...], patch: tuple[int, ...], generator: Generator
) -> tuple[int, ...]:
    """A uniformly random patch inside the image; centred along axes that are too short."""
    return tuple(
        int(generator.integers(size - length + 1)) if size > length else (size - length) // 2
        for size, length in zip(shape, patch, strict=True)
    )
