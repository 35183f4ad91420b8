"""A volume larger than the network: overlapping windows, Gaussian weights, optional mirroring.

Windows are computed in the order of the first axis, and planes that no later window touches are
given away at once: memory holds as many planes as a window is deep, not the volume.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from renalplan.errors import PredictionError
from renalplan.geometry import Box, Shape
from renalplan.inference.disagreement import disagreement
from renalplan.inference.engines.engine import Engine
from renalplan.inference.placing import Window, gaussian_weights, mirror_subsets, window_rows
from renalplan.inference.scratch import Scratch, release

Progress = Callable[[int, int], None]  # windows done, windows in all
IN_MEMORY = Scratch(1 << 62)
PLANES = 4  # given away at a time, if they are small: their means are the only copies made of sums
PLANES_BYTES = 32 << 20
CARD_SHARE = 0.3  # of a card's free memory, for sums and for the scan; the rest is the network's
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Mirroring:
    """Test-time augmentation.

    Attributes:
        axes: Axes to mirror over; empty for none.
        swap: For the axis that runs from right to left: how the heads change places when it is
            mirrored, so that a left kidney stays left.
        left_right_axis: Which axis that is.
    """

    axes: tuple[int, ...] = ()
    swap: tuple[int, ...] | None = None
    left_right_axis: int = 2


@dataclass(frozen=True, kw_only=True)
class Skipping:
    """Windows that need not be computed.

    Attributes:
        wanted: Whether there is anything in a box of the volume.
        outside: (heads,) logits of voxels that no computed window covers.
    """

    wanted: Callable[[Box], bool]
    outside: Tensor


class WindowPredictor:
    """Runs one or more networks over a volume and averages their logits.

    Attributes:
        engines: One a network, all of the same heads.
        patch: Window size along the plan's axes.
        heads: Number of outputs.
        channels: Number of inputs.
        step: Window distance as a share of the patch.
        mirroring: Test-time augmentation.
        batch: Patches computed at a time; halved when a card's memory runs out.
        scratch: Where the sums are kept.
        exclusive: Given: one more plane set is made, the networks' disagreement, of classes that
            exclude each other (softmax) or not (sigmoid).
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        patch: Shape,
        heads: int,
        *,
        channels: int = 1,
        step: float = 0.5,
        mirroring: Mirroring | None = None,
        batch: int = 1,
        scratch: Scratch = IN_MEMORY,
        exclusive: bool | None = None,
    ) -> None:
        self.engines = engines
        self.patch = patch
        self.heads = heads
        self.channels = channels
        self.step = step
        self.mirroring = mirroring or Mirroring()
        self.batch = batch
        self.scratch = scratch
        self.exclusive = exclusive
        self._subsets = mirror_subsets(self.mirroring.axes)

    @property
    def outputs(self) -> int:
        """Planes made for each slice: the heads, and the disagreement if wanted."""
        return self.heads + (self.exclusive is not None)

    def __call__(self, image: Tensor, progress: Progress | None = None) -> Tensor:
        """(C, z, y, x) float32 -> (outputs, z, y, x) float32 logits on the host."""
        return torch.cat(list(self.planes(image, progress)), 1)

    @torch.inference_mode()
    def planes(
        self, image: Tensor, progress: Progress | None = None, skip: Skipping | None = None
    ) -> Iterator[Tensor]:
        """Finished slices in order: (outputs, n, y, x) float32 on the host, n as it comes.

        Args:
            image: (C, z, y, x) float32 on the host.
            progress: Told after each batch.
            skip: Windows not to compute.

        Raises:
            PredictionError: one patch alone does not fit on the card.
        """
        padded, inner = _pad_to(image, self.patch)
        shape: Shape = tuple(padded.shape[1:])  # type: ignore[assignment]
        rows = window_rows(shape, self.patch, self.step)
        total = sum(len(places) for _, places in rows)
        sums = _Sums(self.outputs, (self.patch[0], *shape[1:]), self._device, self.scratch)
        source = _Image(padded, self._device)
        done = 0
        for row, (start, places) in enumerate(rows):
            wanted = [p for p in places if skip is None or skip.wanted(_inside(p, inner))]
            for part in _compute(self, source, wanted, sums):
                done += part
                if progress:
                    progress(done, total)
            if len(wanted) < len(places):
                done += len(places) - len(wanted)
                if progress:
                    progress(done, total)
            end = rows[row + 1][0] if row + 1 < len(rows) else shape[0]
            first = max(inner[0].start - start, 0)
            last = min(inner[0].stop - start, end - start)
            count = planes_at_a_time(self.outputs, shape)
            for begin in range(first, last, count):
                means = sums.means(begin, min(begin + count, last), skip)
                yield means[:, :, inner[1], inner[2]]
            sums.move_up(end - start)

    @property
    def _device(self) -> torch.device:
        return self.engines[0].device

    def mean(self, patches: Tensor) -> Tensor:
        """(B, C, *patch) -> (B, outputs, *patch): mean logits over networks and mirrored passes."""
        each = [self._mirrored(engine, patches) for engine in self.engines]
        mean = each[0] if len(each) == 1 else torch.stack(each).mean(0)
        if self.exclusive is None:
            return mean
        return torch.cat([mean, disagreement(each, exclusive=self.exclusive)], 1)

    def _mirrored(self, engine: Engine, patches: Tensor) -> Tensor:
        """Mean logits of one network; mirrored copies are patches like others, batch by batch."""
        copies = [patches.flip([2 + axis for axis in s]) if s else patches for s in self._subsets]
        every = torch.cat(copies) if len(copies) > 1 else patches
        logits = torch.cat([engine(part) for part in every.split(self.batch)])
        result: Tensor | None = None
        for subset, part in zip(self._subsets, logits.split(len(patches)), strict=True):
            back = part.flip([2 + axis for axis in subset]) if subset else part
            mirroring = self.mirroring
            if mirroring.swap is not None and mirroring.left_right_axis in subset:
                back = back[:, list(mirroring.swap)]
            result = back if result is None else result + back
        assert result is not None, "the empty subset is always there"
        return result / len(self._subsets) if len(self._subsets) > 1 else result


def _compute(
    predict: WindowPredictor, image: _Image, places: list[Window], sums: _Sums
) -> Iterator[int]:
    """Compute windows and add them up.

    When a card is full, with fewer at a time, then without the image there, then without the sums.

    Yields:
        How many windows have been added.
    """
    weights = gaussian_weights(predict.patch).to(sums.device)
    while places:
        group = places[: predict.batch]
        try:
            logits = predict.mean(image.windows(group))
        except torch.OutOfMemoryError:
            if predict.batch > 1:
                predict.batch //= 2
                log.warning("the card's memory is full; going on with %d at a time", predict.batch)
            elif image.leave_card():
                log.warning("the card's memory is full; the scan is kept in the host's memory")
            elif sums.leave_card():
                weights = weights.cpu()
                log.warning("the card's memory is full; sums are kept in the host's memory")
            else:
                raise PredictionError(
                    f"one patch of {' x '.join(map(str, predict.patch))} does not fit on the card; "
                    "use --device cpu."
                ) from None
            continue
        for place, part in zip(group, logits, strict=True):
            sums.add(place, part, weights)
        del logits, part  # or they would stand beside the next ones
        places = places[len(group) :]
        yield len(group)


class _Image:
    """The padded volume: on the card where it fits, so that windows are cut there."""

    def __init__(self, image: Tensor, device: torch.device) -> None:
        self._device = device
        self._image = image.to(device) if _fits(image.nbytes, device) else image

    def windows(self, places: list[Window]) -> Tensor:
        """(B, C, *patch) on the device."""
        found = torch.stack([self._image[(slice(None), *place)] for place in places])
        if found.device != self._device and self._device.type == "cuda":
            return found.pin_memory().to(self._device, non_blocking=True)
        return found.to(self._device)

    def leave_card(self) -> bool:
        """Go to the host; False if it is there already."""
        if self._image.device.type == "cpu":
            return False
        self._image = self._image.cpu()
        torch.cuda.empty_cache()
        return True


def _fits(size: int, device: torch.device) -> bool:
    """Whether so many bytes may lie on a card beside the network's work."""
    if device.type != "cuda":
        return False
    return bool(size <= CARD_SHARE * torch.cuda.mem_get_info(device)[0])


class _Sums:
    """Weighted sums of as many planes as a window is deep, and the sum of weights."""

    def __init__(self, outputs: int, shape: Shape, device: torch.device, scratch: Scratch) -> None:
        self._shape = (outputs + 1, *shape)
        self._scratch = scratch
        self._array: NDArray[Any] | None = None  # if they are on the host
        fits = _fits(4 * int(torch.Size(self._shape).numel()), device)
        self._sums = torch.zeros(self._shape, device=device) if fits else self._on_host()

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self._sums.device

    def _on_host(self) -> Tensor:
        self._array = self._scratch.zeros(self._shape, "float32")
        return torch.from_numpy(self._array)

    def leave_card(self) -> bool:
        """Go to the host; False if they are there already."""
        if self._array is not None:
            return False
        self._sums = self._on_host().copy_(self._sums)
        torch.cuda.empty_cache()
        return True

    def add(self, place: Window, logits: Tensor, weights: Tensor) -> None:
        """Add one window; its place along the first axis is where the sums begin.

        Args:
            place: Of the window.
            logits: (outputs, *patch), anywhere.
            weights: (*patch) on the device of the sums.
        """
        parts = self._sums[(slice(None), slice(None), *place[1:])]
        if self._array is None:
            parts[:-1].addcmul_(logits.to(parts.device), weights)
            parts[-1].add_(weights)
            return
        # a window's rows touch the pages of whole rows: one output's in memory at a time
        for part, values in zip(parts[:-1], logits.cpu(), strict=True):
            part.addcmul_(values, weights)
            release(self._array)
        parts[-1].add_(weights)
        release(self._array)

    def means(self, first: int, stop: int, skip: Skipping | None) -> Tensor:
        """Weighted means of some planes, (outputs, stop - first, y, x) on the host."""
        weight = self._sums[-1:, first:stop]
        means = (self._sums[:-1, first:stop] / weight).cpu()
        if skip is not None:
            nowhere = (weight[0] == 0).cpu()
            means[: len(skip.outside), nowhere] = skip.outside[:, None]
            means[len(skip.outside) :, nowhere] = 0
        if self._array is not None:
            release(self._array)
        return means

    def move_up(self, count: int) -> None:
        """The first planes are done with; a file's are never all in memory at once."""
        sums, depth = self._sums, self._shape[1]
        for plane in range(depth):
            if plane + count < depth:
                sums[:, plane].copy_(sums[:, plane + count])
            else:
                sums[:, plane] = 0
            if self._array is not None:
                release(self._array)


def planes_at_a_time(outputs: int, shape: Sequence[int]) -> int:
    """How many planes of a padded volume are given away at a time; at least one."""
    plane = 4 * outputs * shape[1] * shape[2]
    return max(1, min(PLANES, PLANES_BYTES // plane))


def _inside(place: Window, inner: Window) -> Box:
    """A window of the padded volume as a box of the volume itself."""
    return tuple(  # type: ignore[return-value]
        (max(p.start, i.start) - i.start, min(p.stop, i.stop) - i.start)
        for p, i in zip(place, inner, strict=True)
    )


def _pad_to(image: Tensor, patch: Shape) -> tuple[Tensor, Window]:
    """Zero-pad on both sides up to the patch; also where the image lies inside."""
    missing = [max(0, p - n) for n, p in zip(image.shape[1:], patch, strict=True)]
    before = [m // 2 for m in missing]
    pads: list[int] = []
    for m, b in zip(reversed(missing), reversed(before), strict=True):
        pads += [b, m - b]
    inner = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
    padded = torch.nn.functional.pad(image, pads) if any(missing) else image
    return padded, inner  # type: ignore[return-value]
