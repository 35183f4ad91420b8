"""How far each number moves: by one voxel of segmentation error, and between the folds.

One voxel: the tumors, then the kidney, are made one voxel (a face neighbour) larger and smaller, and
everything is measured again; the interval holds all values. Where a tumor has taken the place of the
kidney's surface, the former one is an estimate: it is taken a standard deviation further out for the
larger kidney and further in for the smaller one. The arteries stay as they are: most are
so thin that a voxel less leaves nothing. Folds: each fold's own segmentation is measured; tumors are
the same if they overlap, branches of arteries are not compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy import ndimage

from renalplan.evaluation.surgery.numbers import Number
from renalplan.evaluation.surgery.records import Arteries, Clamping, KidneyNumbers, Supply
from renalplan.evaluation.surgery.sides import KidneyMasks, Mask

KIND = TypeVar("KIND", bound=BaseModel)


def one_voxel_variants(masks: KidneyMasks) -> Iterator[tuple[KidneyMasks, float]]:
    """The kidney with its tumors, then itself, one voxel larger and smaller; none without parenchyma.

    With each comes by how many standard deviations its former surface lies further out.
    """
    variants: list[tuple[KidneyMasks | None, float]] = [
        (_larger_kidney(masks), 1.0),
        (_smaller_kidney(masks), -1.0),
    ]
    if masks.tumors is not None and masks.tumor_count:
        grown, shrunk = _larger_tumors(masks, masks.tumors), _smaller_tumors(masks, masks.tumors)
        variants = [(grown, 0.0), (shrunk, 0.0), *variants]
    for variant, further in variants:
        if variant is not None and variant.parenchyma.any():
            yield variant, further


def _larger_tumors(masks: KidneyMasks, numbers: NDArray[np.int32]) -> KidneyMasks:
    cross = ndimage.generate_binary_structure(3, 1)
    grown = ndimage.maximum_filter(numbers, footprint=cross)
    tumors = np.where(numbers > 0, numbers, grown)
    return _without(masks, tumors == 0, tumors)


def _smaller_tumors(masks: KidneyMasks, numbers: NDArray[np.int32]) -> KidneyMasks | None:
    """What a tumor gives up becomes parenchyma where it borders on that."""
    shrunk = np.where(_eroded(numbers > 0), numbers, 0)
    if len(np.unique(shrunk)) < len(np.unique(numbers)):
        return None  # a tumor of two voxels' width is gone: no number of it is left to compare
    given = (numbers > 0) & (shrunk == 0)
    near = given & ndimage.binary_dilation(masks.parenchyma, np.ones((3, 3, 3), bool))
    return replace(masks, tumors=shrunk, parenchyma=masks.parenchyma | near)


def _larger_kidney(masks: KidneyMasks) -> KidneyMasks:
    taken = [masks.cyst, masks.artery, masks.vein, masks.aorta, masks.sinus, masks.collecting]
    free = ~masks.organ
    for mask in taken:
        if mask is not None:
            free &= ~mask
    added = ndimage.binary_dilation(masks.parenchyma) & free
    cortex = None if masks.cortex is None else masks.cortex | added
    return replace(masks, parenchyma=masks.parenchyma | added, cortex=cortex)


def _smaller_kidney(masks: KidneyMasks) -> KidneyMasks:
    return _without(masks, _eroded(masks.organ), masks.tumors)


def _without(masks: KidneyMasks, keep: Mask, tumors: NDArray[np.int32] | None) -> KidneyMasks:
    """The kidney's tissue cut to where `keep` is true."""

    def cut(mask: Mask | None) -> Mask | None:
        return None if mask is None else mask & keep

    return replace(
        masks,
        parenchyma=masks.parenchyma & keep,
        tumors=tumors,
        cortex=cut(masks.cortex),
        medulla=cut(masks.medulla),
        cyst=cut(masks.cyst),
    )


def _eroded(mask: Mask) -> Mask:
    """One voxel less; the array's border is no border of the mask (the scan ends there)."""
    result: Mask = ndimage.binary_erosion(mask, border_value=1)
    return result


def with_intervals(base: KIND, others: Sequence[KIND | None], name: str) -> KIND:
    """A record whose numbers say how far they move.

    Args:
        base: The record.
        others: The same measured on other masks; None where there was nothing to measure.
        name: `voxel` or `folds`: which interval of `Number` it is.

    Returns:
        The record with the interval of the base's and all others' values in each number.
    """
    found = [other for other in others if other is not None]
    if isinstance(base, Number):
        values = [n.value for n in (base, *found) if isinstance(n, Number) and n.value is not None]
        if base.value is None or not found:
            return base
        return base.model_copy(update={name: (min(values), max(values))})
    update: dict[str, Any] = {}
    for field in type(base).model_fields:
        value = getattr(base, field)
        theirs = [getattr(other, field) for other in found]
        if isinstance(value, BaseModel):
            update[field] = with_intervals(value, theirs, name)
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            pairs = [_paired(value, other) for other in theirs]
            update[field] = tuple(
                with_intervals(one, [pair[i] for pair in pairs], name)
                for i, one in enumerate(value)
            )
    if isinstance(base, Clamping):
        return base  # its branches may be other ones there, see `clampings_with_intervals`
    return base.model_copy(update=update)


def _paired(base: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    """For each record its namesake (by number or margin), None if there is none."""
    key = next((k for k in ("number", "margin_mm") if hasattr(base[0], k)), None)
    if key is None:  # breaks and contacts: places, nothing to compare
        return [None] * len(base)
    known = {getattr(one, key): one for one in other}
    return [known.get(getattr(one, key)) for one in base]


def clampings_with_intervals(supply: Supply, base: Arteries, others: list[Arteries]) -> Supply:
    """The same sets of branches clamped in the variants, whose tree is the same.

    The branches of a set are no descendants of each other, so what is lost adds up.
    """

    def lost(arteries: Arteries, branches: tuple[int, ...], field: str) -> float:
        known = {branch.number: getattr(branch, field).value for branch in arteries.branches}
        return float(sum(known[number] or 0.0 for number in branches))

    changed = []
    for one in supply.clampings:
        update = {}
        for name, field in (("lost", "territory"), ("lost_share", "lost_share")):
            values = [lost(arteries, one.branches, field) for arteries in (base, *others)]
            number: Number = getattr(one, name)
            update[name] = number.model_copy(update={"voxel": (min(values), max(values))})
        changed.append(one.model_copy(update=update))
    return supply.model_copy(update={"clampings": tuple(changed)})


def with_voxel_intervals(base: KidneyNumbers, variants: list[KidneyNumbers]) -> KidneyNumbers:
    """A kidney's numbers with how far one voxel moves them."""
    result = with_intervals(base, variants, "voxel")
    others = [variant.arteries for variant in variants]
    tumors = tuple(
        tumor.model_copy(
            update={"supply": clampings_with_intervals(tumor.supply, base.arteries, others)}
        )
        for tumor in result.tumors
    )
    return result.model_copy(update={"tumors": tumors})
