"""The coarse-to-fine way: kidneys roughly, corrected where abnormal, finely; then their tumors.

All networks look at one grid, the plan's. Folds are averaged at each step, so all look at the same
places. Every decision that the rules take is reported with the answer.

Sources:
    [C2F] the coarse-to-fine system for KiTS19 of the group: section 1.2 (kidney), section 2 (tumor).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from renalplan.geometry import (
    Box,
    Shape,
    Spacing,
    box_slices,
    boxes_overlap,
    grow_box,
    margin_voxels,
    whole_box,
)
from renalplan.images import Volume
from renalplan.inference.decisions import Decisions
from renalplan.inference.kidney_tumor_field import KidneyTumorField
from renalplan.inference.options import InferenceOptions
from renalplan.inference.segmenter import Segmenter
from renalplan.kidney_tumor import find_kidney_tumor
from renalplan.kidneys import (
    LEAST_ML,
    NORMAL,
    count_kidneys,
    is_abnormal,
    is_better,
    separate_kidneys,
)
from renalplan.lesions import FALLBACK, NOTHING, Tumors, decide_tumors, volumes_ml, within
from renalplan.model_folder import ModelFolder
from renalplan.normalisation import rescalings
from renalplan.plan import StagePlan
from renalplan.preprocessing import body_box, prepare_image, stage_spacing
from renalplan.regions import Piece, find_pieces, region_boxes
from renalplan.windows import at_least, restore_slices, shrink_slices, window_box

COARSE, CORRECTION, FINE, TUMOR_3D, TUMOR_2D = (
    "coarse", "correction", "fine", "tumor_3d", "tumor_2d",
)  # fmt: skip
SLICES = 8  # computed at a time


@dataclass(frozen=True)
class Found:
    """The kidneys that the coarse step found, and how.

    Attributes:
        kidneys: Where the fine network looks.
        coarse_ml: Volumes of the coarse mask's components of at least `LEAST_ML`, largest first.
        corrected_ml: Those of the corrected mask; None if there was no correction.
        counted: Components that are kidneys by their volume: in the coarse mask, and in the one used.
        abnormal: Whether the coarse mask shows another number of kidneys than two.
        corrected: Whether the corrected mask is used.
    """

    kidneys: list[Piece]
    coarse_ml: tuple[float, ...]
    corrected_ml: tuple[float, ...] | None
    counted: tuple[int, int]
    abnormal: bool
    corrected: bool


class CoarseToFineSegmenter(Segmenter):
    """See the module.

    Attributes:
        coarse_pixels: Edge that whole axial slices are shrunk to.
        sagittal_window: Of the correction along (x, z, y), voxels.
        axial_window: Of the fine and the 2-D tumor network along (z, y, x), voxels.
        patch_3d: Of the 3-D tumor network along (z, y, x), voxels.
        threshold_ml: What is larger is a kidney.
        padding_mm: How far around the kidneys tumors are looked for.
        correction: Whether abnormal cases are corrected.
    """

    def __init__(
        self,
        model: ModelFolder,
        folds: list[str],
        options: InferenceOptions,
        *,
        kidney: str,
        tumor: str,
        coarse_pixels: int,
        sagittal_window: Shape,
        axial_window: Shape,
        patch_3d: Shape,
        threshold_ml: float,
        padding_mm: float,
        correction: bool,
    ) -> None:
        super().__init__(model, folds, options)
        self.names = (kidney, tumor)
        self.coarse_pixels = coarse_pixels
        self.sagittal_window = sagittal_window
        self.axial_window = axial_window
        self.patch_3d = patch_3d
        self.threshold_ml = threshold_ml
        self.padding_mm = padding_mm
        self.correction = correction

    @property
    def phases(self) -> tuple[str, ...]:
        """See `Segmenter.phases`."""
        return (COARSE, *((CORRECTION,) if self.correction else ()), FINE, TUMOR_3D, TUMOR_2D)

    @property
    def grid(self) -> StagePlan:
        """The plan's stage: the grid that all networks look at."""
        return self.model.plan.run(self.model.record.configuration)[-1]

    def segment(self, volume: Volume) -> KidneyTumorField:
        """See `Segmenter.segment`."""
        plan = self.model.plan
        body = body_box(volume.array)
        rules = rescalings(volume.array, plan.channels)
        image = torch.from_numpy(
            prepare_image(volume.array, body, volume.spacing, plan, self.grid, rules)
        )
        spacing = stage_spacing(plan, self.grid, volume.spacing)
        found = self.find_kidneys(image, spacing)
        both = self.fine(image, found.kidneys, spacing)
        tumors = self.find_tumors(image, both > 0.5, spacing)
        field = KidneyTumorField(
            volume.shape,
            body,
            torch.from_numpy(np.stack([both, tumors.probability])),
            self.model.scheme,
            find_kidney_tumor(self.model.scheme, *self.names),
        )
        kidney_ml = _large_first((both > 0.5) | (tumors.probability > 0.5), spacing)
        field.decisions = report(found, tumors, kidney_ml, correction=self.correction)
        return field

    def find_kidneys(self, image: Tensor, spacing: Spacing) -> Found:
        """Coarse segmentation, the count of kidneys, and the correction if it is abnormal.

        Args:
            image: (C, z, y, x) on the plan's grid.
            spacing: mm along (z, y, x).
        """
        coarse = used = self.coarse(image) > 0.5
        counted = count_kidneys(coarse, spacing, self.threshold_ml)
        abnormal = is_abnormal(counted)
        corrected_ml, corrected = None, False
        if abnormal and self.correction:
            again = self.corrected(image, coarse, spacing) > 0.5
            corrected_ml = _large_first(again, spacing)
            corrected = is_better(again, coarse, spacing, self.threshold_ml)
            used = again if corrected else coarse
        return Found(
            kidneys=separate_kidneys(used, spacing, self.threshold_ml),
            coarse_ml=_large_first(coarse, spacing),
            corrected_ml=corrected_ml,
            counted=(len(counted), len(count_kidneys(used, spacing, self.threshold_ml))),
            abnormal=abnormal,
            corrected=corrected,
        )

    def coarse(self, image: Tensor) -> NDArray[np.float32]:
        """C: kidney probability of every axial slice, seen whole at a fixed size [C2F, Eq. 2]."""
        shrunk = shrink_slices(image.movedim(1, 0), self.coarse_pixels)
        window = (1, self.coarse_pixels, self.coarse_pixels)
        logits = self._logits(COARSE, shrunk.movedim(0, 1), window)
        whole = restore_slices(logits.movedim(1, 0), (image.shape[2], image.shape[3]))
        return _probability(whole.movedim(0, 1))

    def corrected(
        self, image: Tensor, coarse: NDArray[np.bool_], spacing: Spacing
    ) -> NDArray[np.float32]:
        """A: kidney probability of the sagittal windows around the coarse mask's middle [C2F, Eq. 3].

        Beyond the windows it is 0. Pieces of less than `LEAST_ML` do not pull the middle away; if
        there is nothing else, there is no middle, and all of the scan is seen.
        """
        shape: Shape = coarse.shape
        box = whole_box(shape)
        pieces = [p for p in find_pieces(coarse, spacing, 0.0) if p.ml >= LEAST_ML]
        if pieces:
            weights = [piece.ml for piece in pieces]
            z, y, x = np.average([p.centre for p in pieces], axis=0, weights=weights).tolist()
            _, height, width = self.sagittal_window
            box = window_box((z, y, x), (height, width, shape[2]), shape)
        part = image[(slice(None), *box_slices(box))].permute(0, 3, 1, 2)  # (C, x, z, y)
        logits = self._logits(CORRECTION, part, self.sagittal_window)
        result = np.zeros(shape, np.float32)
        result[box_slices(box)] = _probability(logits.permute(0, 2, 3, 1))
        return result

    def fine(self, image: Tensor, kidneys: list[Piece], spacing: Spacing) -> NDArray[np.float32]:
        """F: kidney probability in an axial window around each kidney [C2F, Eq. 4].

        Slices are those of the kidney, padded. Where two windows overlap, the mean counts.
        """
        shape: Shape = tuple(image.shape[1:])  # type: ignore[assignment]
        total, seen = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        margin = margin_voxels(self.padding_mm, spacing)
        for kidney in kidneys:
            slices = grow_box(kidney.box, margin, shape)[0]
            _, *in_plane = window_box(kidney.centre, self.axial_window, shape)
            box: Box = (slices, *in_plane)  # type: ignore[assignment]
            where = box_slices(box)
            logits = self._logits(FINE, image[(slice(None), *where)], self.axial_window)
            total[where] += _probability(logits)
            seen[where] += 1
        return np.divide(total, seen, out=total, where=seen > 0)

    def find_tumors(self, image: Tensor, kidney: NDArray[np.bool_], spacing: Spacing) -> Tumors:
        """The 3-D network in padded boxes around the kidneys, the 2-D one as the rules say.

        Args:
            image: (C, z, y, x) on the plan's grid.
            kidney: (z, y, x), the fine network's, tumors included.
            spacing: mm along (z, y, x).
        """
        boxes = region_boxes(kidney, spacing, margin_mm=self.padding_mm, minimum_ml=LEAST_ML)
        probability = self._in_boxes(TUMOR_3D, image, boxes, self.patch_3d)
        with_mask = torch.cat([image, torch.from_numpy(kidney[None].astype(np.float32))])

        def refine(wanted: list[Box]) -> NDArray[np.float32]:
            """The 2-D network sees what it learned from, slices of a kidney's box; `wanted` counts."""
            seen: list[Box] = []
            for box in boxes:
                slices = [part[0] for part in wanted if boxes_overlap(part, box)]
                if slices:  # from the first to the last: once, however many lesions there are
                    first, last = min(a for a, _ in slices), max(b for _, b in slices)
                    seen.append(((first, last), box[1], box[2]))
            return within(self._in_boxes(TUMOR_2D, with_mask, seen, self.axial_window), wanted)

        return decide_tumors(probability, refine, kidney, boxes, spacing)

    def _in_boxes(
        self, phase: str, image: Tensor, boxes: list[Box], window: Shape
    ) -> NDArray[np.float32]:
        """Foreground probability inside boxes, 0 outside; the mean where boxes overlap.

        A box is looked at in at least one whole window, so that no network sees made-up surroundings
        where there are real ones.
        """
        shape: Shape = tuple(image.shape[1:])  # type: ignore[assignment]
        total, seen = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for box in boxes:
            where = box_slices(at_least(box, window, shape))
            total[where] += _probability(self._logits(phase, image[(slice(None), *where)], window))
            seen[where] += 1
        return within(np.divide(total, seen, out=total, where=seen > 0), boxes)

    def _logits(self, phase: str, image: Tensor, window: Shape) -> Tensor:
        """Mean logits of the folds, (2, z, y, x)."""
        z, y, x = window  # JSON's lists
        batch = SLICES if z == 1 else None
        predict = self.windows(phase, len(image), (z, y, x), 2, batch=batch)
        return predict(image.contiguous(), self.progress(phase))


def report(
    found: Found, tumors: Tumors, kidney_ml: tuple[float, ...], *, correction: bool
) -> Decisions:
    """What is written beside the segmentation; volumes in ml."""
    values = {
        "kidneys_found": found.counted[1],
        "kidneys_segmented": len(found.kidneys),
        "kidney_ml": _rounded(kidney_ml),
        "coarse_kidneys": found.counted[0],
        "coarse_components_ml": _rounded(found.coarse_ml),
        "abnormal": found.abnormal,
        "corrected": found.corrected,
        "corrected_components_ml": (
            None if found.corrected_ml is None else _rounded(found.corrected_ml)
        ),
        "tumor_source": tumors.source,
        "tumors_ml": _rounded(tumors.kept_ml),
        "removed_lesions_ml": _rounded(tumors.removed_ml),
    }
    return Decisions(values, tuple(_remarks(found, tumors, correction=correction)))


def _remarks(found: Found, tumors: Tumors, *, correction: bool) -> list[str]:
    before, after = found.counted
    remarks = []
    if found.abnormal:
        seen = f"the coarse network shows {_kidneys(before)} where {NORMAL} are usual"
        if found.corrected and after == before:
            remarks.append(f"{seen}; the sagittal plane shows as many, and its mask is used")
        elif found.corrected:
            remarks.append(f"{seen}; corrected along the sagittal plane: {_kidneys(after)}")
        elif correction:
            remarks.append(f"{seen}; the correction shows none and is not used")
        else:
            remarks.append(f"{seen}; the model was trained without correction")
    if not found.kidneys:
        remarks.append("no kidney found; the segmentation is empty")
    elif after == 0:
        remarks.append("nothing is as large as a kidney; the largest piece is taken for one")
    elif after < len(found.kidneys):
        remarks.append("one piece lies on both sides of the body and is segmented as two kidneys")
    if tumors.source == FALLBACK:
        remarks.append("the 3-D network finds no tumor; what the 2-D network finds is taken")
    elif tumors.source == NOTHING and found.kidneys:
        remarks.append("no tumor found, neither by the 3-D nor by the 2-D network")
    if tumors.removed_ml:
        volume = sum(tumors.removed_ml)
        count = len(tumors.removed_ml)
        lesions = "1 lesion" if count == 1 else f"{count} lesions"
        remarks.append(f"{lesions} ({volume:.2g} ml) removed that touch no kidney")
    return remarks


def _kidneys(count: int) -> str:
    return "1 kidney" if count == 1 else f"{count or 'no'} kidneys"


def _large_first(mask: NDArray[np.bool_], spacing: Spacing) -> tuple[float, ...]:
    found = sorted(volumes_ml(mask, spacing), reverse=True)
    return tuple(ml for ml in found if ml >= LEAST_ML)


def _rounded(volumes: tuple[float, ...]) -> list[float]:
    return [round(ml, 3) for ml in volumes]


def _probability(logits: Tensor) -> NDArray[np.float32]:
    """(2, z, y, x) logits -> (z, y, x) probability of the second class."""
    result: NDArray[np.float32] = logits.softmax(0)[1].numpy()
    return result
