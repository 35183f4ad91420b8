"""Where a segmentation is uncertain, and how good it expects itself to be.

The entropy and what of it the networks disagree about are those of `disagreement`. The expected Dice
is the soft Dice of a mask y against its own probabilities p, 2 sum(p y) / (sum(p) + sum(y)): the
overlap with the truth that it would have if the probabilities were right. A structure that is not found
has a Dice of one if it is not there and of zero if it was missed: what counts is how likely it is
not there, by how many of the cases that the networks learned from are without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from renalplan.entropy import entropy
from renalplan.files import Record, write_json
from renalplan.geometry import Grid, Shape, Spacing
from renalplan.images import write_volume
from renalplan.inference.scratch import Scratch, release
from renalplan.labels import LabelScheme

FOLDER = "uncertainty"
KINDS = ("entropy", "disagreement")
MISSED = 0.5  # how often a structure that is there is not found: nobody knows beforehand


class StructureUncertainty(Record):
    """What is said of one structure.

    Attributes:
        expected_dice: The Dice it would have if its probabilities were right. Where it is not
            found at all: how surely it is absent, `absence` times one minus its largest probability.
        volume_ml: Of its mask.
        expected_volume_ml: The sum of its probabilities.
    """

    expected_dice: float
    volume_ml: float
    expected_volume_ml: float


class CaseUncertainty(Record):
    """uncertainty/<case>.json.

    Attributes:
        case: Case id.
        score: The smallest expected Dice of its structures: the lower, the more it wants a look.
        structures: Name -> what is said of it.
        disagreement_known: Whether there is a map of disagreement; one network alone has none.
    """

    case: str
    score: float
    structures: dict[str, StructureUncertainty]
    disagreement_known: bool


def absence(presence: float) -> float:
    """How likely a structure is not there when it is not found (Bayes, with `MISSED`).

    Args:
        presence: How likely it is there before anybody has looked.
    """
    return (1 - presence) / (1 - presence + presence * MISSED)


def forget_uncertainty(folder: Path, case: str, ending: str) -> None:
    """Remove a case's numbers and maps, which are of another segmentation than the one to be written."""
    for name in (f"{case}.json", *(f"{case}_{kind}{ending}" for kind in KINDS)):
        (folder / name).unlink(missing_ok=True)


class UncertaintyMaps:
    """Collects a case's uncertainty slab by slab.

    Args:
        shape: The scan's canonical shape (z, y, x).
        scheme: What the heads mean.
        scratch: Where the maps are kept until they are written.
        networks: How many networks were averaged.
        presence: Structure -> how likely a scan holds it; those not named are never expected.
    """

    def __init__(
        self,
        shape: Shape,
        scheme: LabelScheme,
        scratch: Scratch,
        *,
        networks: int,
        presence: Mapping[str, float] | None = None,
    ) -> None:
        self._scheme = scheme
        self._presence = presence or {}
        self._entropy = scratch.zeros(shape, np.float16)
        self._disagreement = scratch.zeros(shape, np.float16) if networks > 1 else None
        self._sums = np.zeros((3, scheme.heads))  # of p * y, of p, of y
        self._largest = np.zeros(scheme.heads)

    def add(
        self,
        start: int,
        stop: int,
        probabilities: Tensor,
        disagreement: Tensor | None,
        labels: NDArray,
    ) -> None:
        """Take some slices: probabilities (heads, n, y, x), the others (n, y, x)."""
        exclusive = not self._scheme.has_regions
        self._entropy[start:stop] = entropy(probabilities, exclusive=exclusive)[0].numpy()
        release(self._entropy)
        if disagreement is None:
            self._disagreement = None
        if self._disagreement is not None and disagreement is not None:
            self._disagreement[start:stop] = disagreement.numpy()
            release(self._disagreement)
        for head, values in enumerate(self._scheme.values):
            p = probabilities[head].numpy()
            mask = np.isin(labels, values)
            self._largest[head] = max(self._largest[head], float(p.max()))
            self._sums[:, head] += (
                p[mask].sum(dtype=np.float64), p.sum(dtype=np.float64), mask.sum(),
            )  # fmt: skip

    def record(self, case: str, spacing: Spacing) -> CaseUncertainty:
        """The numbers; spacing in mm."""
        ml = prod(spacing) / 1000
        structures = {}
        for name in self._scheme.foreground:
            head = self._scheme.names.index(name)
            both, expected, found = self._sums[:, head].tolist()
            absent = (1 - float(self._largest[head])) * absence(self._presence.get(name, 0.0))
            structures[name] = StructureUncertainty(
                expected_dice=round(2 * both / (expected + found) if found else absent, 4),
                volume_ml=round(found * ml, 3),
                expected_volume_ml=round(expected * ml, 3),
            )
        return CaseUncertainty(
            case=case,
            score=min(s.expected_dice for s in structures.values()),
            structures=structures,
            disagreement_known=self._disagreement is not None,
        )

    def write(
        self, folder: Path, case: str, ending: str, grid: Grid, spacing: Spacing
    ) -> CaseUncertainty:
        """Write the maps in bits on the scan's own grid, then the numbers: what is there is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        maps = zip(KINDS, (self._entropy, self._disagreement), strict=True)
        for name, values in maps:
            path = folder / f"{case}_{name}{ending}"
            if values is None:
                path.unlink(missing_ok=True)
            else:
                write_volume(path, values.astype(np.float32), grid)
        record = self.record(case, spacing)
        write_json(folder / f"{case}.json", record)
        return record
