"""Where the networks of the coarse-to-fine system look while they are trained: one source each.

Every sample is a pure function of (seed, step, place). Labels come as 0 and 1 (2 is ignored): what
a network learns, against the rest. Items are stored along (z, y, x).

Sources:
    [C2F] the coarse-to-fine system for KiTS19 of the group, sections 1.1, 2.1 and 2.2.
    [Kamnitsas2017] Efficient multi-scale 3D CNN with fully connected CRF for accurate brain lesion
        segmentation, Medical Image Analysis 36: dense training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from renalplan.geometry import Shape, whole_box
from renalplan.store import ItemArrays
from renalplan.trainers.anatomy import Anatomy, KidneyPlace
from renalplan.trainers.sampling import PatchSource, draw_item, random_corner, with_margin
from renalplan.windows import shrink_slices, window_start

IGNORED = 2
KIDNEY, TUMOR = 1, 2  # what the centre of a dense patch lies in
TRIES = 20  # for a background voxel in a box that hardly has one
ROUNDING = 1e-9  # so that three thirds are one
Corner = tuple[int, ...]


@dataclass(frozen=True)
class WindowSource(PatchSource, ABC):
    """Windows around what the labels of an item say; the first network axis may be any of the item's.

    Attributes:
        anatomies: Item name -> what its labels say.
        target: Label values that the network learns.
        kidney: Label values of kidney and tumor together.
        tumor: Label values of the tumor.
        names: What the store calls kidney and tumor.
        ignore: The label value that nothing is learned from.
        jitter: Standard deviation of a window's displacement, voxels along (z, y, x): at prediction
            it is cut around what another network found.
        axes: Network axis i is the item's axis `axes[i]`.
        kidney_as_channel: Whether the kidney mask is an input, as a second segmentation channel.
    """

    anatomies: dict[str, Anatomy] = field(default_factory=dict)
    target: tuple[int, ...] = ()
    kidney: tuple[int, ...] = ()
    tumor: tuple[int, ...] = ()
    names: tuple[str, str] = ("kidney", "tumor")
    ignore: int | None = None
    jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axes: ClassVar[Shape] = (0, 1, 2)
    kidney_as_channel: ClassVar[bool] = False

    def draw(self, generator: Generator, wanted: int) -> tuple[ItemArrays, Corner]:
        """See `PatchSource.draw`; only items that hold what is wanted, if there are any."""
        holding = tuple(item for item in self.items if self.holds(item, wanted))
        item = draw_item(holding or self.items, generator)
        return item, self.place(item, wanted if holding else 0, generator)

    def holds(self, item: ItemArrays, wanted: int) -> bool:
        """Whether an item has what is wanted."""
        return not wanted or bool(self.anatomies[item.item.name].kidneys)

    @abstractmethod
    def place(self, item: ItemArrays, wanted: int, generator: Generator) -> Corner:
        """The corner of a window in an item, along (z, y, x)."""

    def read(self, item: ItemArrays, corner: Corner, margin: Shape) -> tuple[NDArray, NDArray]:
        """See `PatchSource.read`; along the network's axes, labels as 0, 1 and 2."""
        start, size = with_margin(corner, self.in_item(self.patch), self.in_item(margin))
        image, labels = item.stored_patch(start, size)
        order = (0, *(1 + axis for axis in self.axes))
        found = np.ascontiguousarray(labels.transpose(order))
        channels = [self.learned(found)]
        if self.kidney_as_channel:
            channels.append(np.isin(found, self.kidney).astype(np.uint8))
        return np.ascontiguousarray(image.transpose(order)), np.concatenate(channels)

    def learned(self, labels: NDArray) -> NDArray[np.uint8]:
        """1 where the target is, 2 where nothing is known."""
        result = np.isin(labels, self.target).astype(np.uint8)
        if self.ignore is not None:
            result[labels == self.ignore] = IGNORED
        return result

    def in_item(self, values: Shape) -> Shape:
        """Values along the network's axes -> along the item's."""
        z, y, x = (values[self.axes.index(axis)] for axis in range(3))
        return z, y, x

    def around(
        self, centre: tuple[float, float, float], item: ItemArrays, generator: Generator
    ) -> list[int]:
        """The corner of a window around a position, displaced at random, inside the item."""
        return [
            window_start(middle + float(generator.normal(0.0, sigma)), size, length)
            for middle, sigma, size, length in zip(
                centre, self.jitter, self.in_item(self.patch), item.item.shape, strict=True
            )
        ]

    def kidneys(self, item: ItemArrays) -> tuple[KidneyPlace, ...]:
        """The kidneys of an item; one without kidneys is looked at as a whole."""
        found = self.anatomies[item.item.name].kidneys
        if found:
            return found
        whole = whole_box(item.item.shape)
        z, y, x = ((n - 1) / 2 for n in item.item.shape)
        return (KidneyPlace(box=whole, search=whole, centre=(z, y, x), tumor_slices=()),)


@dataclass(frozen=True)
class SliceSource(WindowSource):
    """C: whole axial slices, shrunk to one size; the wanted ones hold kidney."""

    def place(self, item: ItemArrays, wanted: int, generator: Generator) -> Corner:
        """See `WindowSource.place`."""
        low, high = 0, item.item.shape[0]
        if wanted:
            low, high = pick(self.kidneys(item), generator).box[0]
        return int(generator.integers(low, high)), 0, 0

    def read(self, item: ItemArrays, corner: Corner, margin: Shape) -> tuple[NDArray, NDArray]:
        """See `WindowSource.read`; the margin around a slice is empty, as there is nothing more."""
        _, height, width = item.item.shape
        image, labels = item.patch(corner, (1, height, width))
        found = self.learned(labels)
        masks = [found == value for value in (1, IGNORED)]
        stacked = np.concatenate([image, *masks]).astype(np.float32)  # (C + 2, 1, y, x)
        shrunk = shrink_slices(torch.from_numpy(stacked.swapaxes(0, 1)), self.patch[1])
        whole = shrunk.numpy().swapaxes(0, 1)  # (C + 2, 1, pixels, pixels)
        target = (whole[-2:-1] >= 0.5).astype(np.uint8)
        target[whole[-1:] >= 0.5] = IGNORED
        around = [(0, 0), *((m, m) for m in margin)]
        return np.pad(whole[:-2], around), np.pad(target, around)


@dataclass(frozen=True)
class SagittalSource(WindowSource):
    """A: sagittal windows around the middle of all kidneys; the wanted ones hold kidney."""

    axes: ClassVar[Shape] = (2, 0, 1)

    def place(self, item: ItemArrays, wanted: int, generator: Generator) -> Corner:
        """See `WindowSource.place`."""
        low, high = 0, item.item.shape[2]
        if wanted:
            low, high = pick(self.kidneys(item), generator).box[2]
        x = int(generator.integers(low, high))
        centre = self.anatomies[item.item.name].centre
        if centre is None:
            z, y, _ = random_corner(item.item.shape, self.in_item(self.patch), generator)
        else:
            z, y, _ = self.around(centre, item, generator)
        return z, y, x


@dataclass(frozen=True)
class KidneySource(WindowSource):
    """F: axial windows around one kidney; the wanted ones hold it, others lie above or below too."""

    def place(self, item: ItemArrays, wanted: int, generator: Generator) -> Corner:
        """See `WindowSource.place`."""
        kidney = pick(self.kidneys(item), generator)
        low, high = (kidney.box if wanted else kidney.search)[0]
        z = int(generator.integers(low, high))
        _, y, x = self.around(kidney.centre, item, generator)
        return z, y, x


@dataclass(frozen=True)
class TumorSliceSource(WindowSource):
    """T: windows as F's with the kidney mask; the wanted ones hold tumor, the others none."""

    kidney_as_channel: ClassVar[bool] = True

    def holds(self, item: ItemArrays, wanted: int) -> bool:
        """See `WindowSource.holds`."""
        return not wanted or any(k.tumor_slices for k in self.anatomies[item.item.name].kidneys)

    def place(self, item: ItemArrays, wanted: int, generator: Generator) -> Corner:
        """See `WindowSource.place`."""
        kidneys = self.kidneys(item)
        if wanted:
            # every slice with tumor is as likely as the next one, whichever kidney it is of
            slices = [(z, kidney) for kidney in kidneys for z in kidney.tumor_slices]
        else:
            barred = {z for kidney in kidneys for z in kidney.tumor_slices}
            slices = [
                (z, kidney)
                for kidney in kidneys
                for z in range(*kidney.search[0])
                if z not in barred
            ]
        if not slices:
            kidney = pick(kidneys, generator)
            slices = [(z, kidney) for z in range(*kidney.search[0])]
        z, kidney = slices[generator.integers(len(slices))]
        _, y, x = self.around(kidney.centre, item, generator)
        return z, y, x


@dataclass(frozen=True)
class DenseSource(WindowSource):
    """The 3-D network's patches: a third each centred in background, kidney and tumor.

    `foreground_share` is the share of kidney and tumor together, two thirds in dense training
    [Kamnitsas2017]. Background is that of the boxes in which tumors are looked for.
    """

    def wanted(self, step: int, place: int) -> int:
        """0 background, `KIDNEY` or `TUMOR`: shares are kept over the steps, not only on average."""
        number = step * self.batch_size + place
        before, after = (int(n * self.foreground_share + ROUNDING) for n in (number, number + 1))
        return (KIDNEY, TUMOR)[after % 2] if after > before else 0

    def holds(self, item: ItemArrays, wanted: int) -> bool:
        """See `WindowSource.holds`."""
        return not wanted or bool(item.item.structures.get(self.names[wanted - 1]))

    def place(self, item: ItemArrays, wanted: int, generator: Generator) -> Corner:
        """See `WindowSource.place`; the patch may reach beyond the image."""
        if wanted:
            voxel = self._in_structure(item, wanted, generator)
        else:
            voxel = self._in_background(item, generator)
        z, y, x = (v - n // 2 for v, n in zip(voxel, self.patch, strict=True))
        return z, y, x

    def _in_structure(self, item: ItemArrays, wanted: int, generator: Generator) -> Corner:
        """A voxel of the tumor, or one of the kidney that is not of the tumor too."""
        places = item.places[self.names[wanted - 1]]
        voxel: Corner = ()
        for _ in range(TRIES):
            voxel = tuple(int(v) for v in places[generator.integers(len(places))])
            if wanted == TUMOR or self._value(item, voxel) not in self.tumor:
                break
        return voxel

    def _in_background(self, item: ItemArrays, generator: Generator) -> Corner:
        """A voxel of the box around a kidney, drawn until it lies in neither."""
        box = pick(self.kidneys(item), generator).search
        barred = {*self.kidney, self.ignore}
        voxel: Corner = ()
        for _ in range(TRIES):
            voxel = tuple(int(generator.integers(a, b)) for a, b in box)
            if self._value(item, voxel) not in barred:
                break
        return voxel

    @staticmethod
    def _value(item: ItemArrays, voxel: Corner) -> int:
        z, y, x = voxel
        return int(np.asarray(item.labels[0, z, y, x]))


def pick(kidneys: tuple[KidneyPlace, ...], generator: Generator) -> KidneyPlace:
    """One of them, each as likely."""
    return kidneys[generator.integers(len(kidneys))]
