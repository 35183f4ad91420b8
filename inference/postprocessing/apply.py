"""Applying a model's rules to a label map, and saying what they removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from renalplan.geometry import Box, Spacing, box_slices, grow_box, mask_box
from renalplan.inference.decisions import Decisions
from renalplan.inference.postprocessing.kidneys import surplus
from renalplan.inference.postprocessing.lesions import loose
from renalplan.inference.postprocessing.scene import Scene
from renalplan.inference.postprocessing.vessels import unconnected
from renalplan.inference.postprocessing.volumes import small
from renalplan.labels import LabelScheme
from renalplan.pieces import number_pieces
from renalplan.postprocessing import Rule, misfit
from renalplan.roles import find_roles

TOUCHING = np.ones((3, 3, 3), bool)
BY_NAME: dict[str, Callable[[NDArray, Scene, Any], NDArray[np.bool_]]] = {
    "at_most_two_kidneys": surplus,
    "lesions_touch_a_kidney": loose,
    "vessels_reach_the_aorta": unconnected,
    "minimum_volume": small,
}


@dataclass(frozen=True)
class Removed:
    """What one rule removed.

    Attributes:
        rule: The rule, with its parameters.
        pieces_ml: Volume of each piece, largest first.
    """

    rule: Rule
    pieces_ml: tuple[float, ...]

    def sentence(self) -> str:
        """For the log."""
        count = len(self.pieces_ml)
        pieces = "1 piece" if count == 1 else f"{count} pieces"
        of = f" of {self.rule.structure}" if self.rule.rule == "minimum_volume" else ""
        return f"{pieces}{of} removed ({sum(self.pieces_ml):.2g} ml) by the rule {self.rule.rule}"


def apply_rules(
    labels: NDArray, spacing: Spacing, scheme: LabelScheme, rules: Sequence[Rule]
) -> tuple[NDArray, list[Removed]]:
    """Apply rules one after the other.

    A piece that goes takes the label that surrounds it most: a speck of tumor inside a kidney
    becomes kidney, one in the fat background. Rules that say nothing about these labels do nothing.

    Args:
        labels: Canonical (z, y, x), the whole scan; stays as it is.
        spacing: mm along (z, y, x).
        scheme: What the labels mean.
        rules: In order.

    Returns:
        The new labels, and what was removed, of the rules that removed something.
    """
    box = mask_box(labels)
    result = labels.copy()
    removed: list[Removed] = []
    if box is None:
        return result, removed
    box = grow_box(box, (1, 1, 1), labels.shape)
    part = result[box_slices(box)]  # a view: the rules look at what is labelled only
    scene = Scene(
        spacing=spacing,
        scheme=scheme,
        roles=find_roles(scheme),
        middle=(labels.shape[2] - 1) / 2 - box[2][0],
    )
    for rule in rules:
        if misfit(rule, scheme):
            continue
        gone = BY_NAME[rule.rule](part, scene, rule)
        if gone.any():
            counts = _give_to_surroundings(part, gone)
            voxel_ml = float(np.prod(spacing)) / 1000
            volumes = tuple(sorted((count * voxel_ml for count in counts), reverse=True))
            removed.append(Removed(rule, volumes))
    return result, removed


def as_decisions(removed: Sequence[Removed]) -> Decisions:
    """What was removed, for a case's `<case>.json` and the log."""
    values = [
        {**found.rule.model_dump(), "pieces_ml": [round(ml, 3) for ml in found.pieces_ml]}
        for found in removed
    ]
    return Decisions({"removed": values}, tuple(found.sentence() for found in removed))


def _give_to_surroundings(labels: NDArray, gone: NDArray[np.bool_]) -> list[int]:
    """Relabel each piece of `gone` in place; returns their voxel counts."""
    pieces = number_pieces(gone)
    statistics = cc3d.statistics(pieces)
    labels[gone] = 0
    for number, bounds in enumerate(statistics["bounding_boxes"][1:], 1):
        box: Box = tuple((int(s.start), int(s.stop)) for s in bounds)  # type: ignore[assignment]
        where = box_slices(grow_box(box, (1, 1, 1), labels.shape))
        piece = pieces[where] == number
        shell = ndimage.binary_dilation(piece, TOUCHING) & ~gone[where]
        if shell.any():
            labels[where][piece] = np.bincount(labels[where][shell]).argmax()
    return [int(count) for count in statistics["voxel_counts"][1:]]
