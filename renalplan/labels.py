"""What the numbers in a label map mean: classes, regions, ignore label, left/right pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from renalplan.errors import DatasetError

IGNORE = "ignore"
BACKGROUND = "background"


@dataclass(frozen=True, kw_only=True)
class LabelScheme:
    """Names and values of a dataset's labels, and how network outputs turn into them.

    Without regions the network has one softmax head a label (background first). With regions it
    has one sigmoid head a region; label maps are painted in `region_values` order, so later
    regions lie on top.

    Attributes:
        names: Heads in order; with regions the region names, else background and the labels.
        values: For each head, the label values that belong to it.
        region_values: With regions, the value painted for each head; empty without regions.
        ignore: The value that no loss and no metric looks at, None if there is none.
        mirror_pairs: Pairs of label values that change places when left and right are exchanged.
    """

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    region_values: tuple[int, ...] = ()
    ignore: int | None = None
    mirror_pairs: tuple[tuple[int, int], ...] = ()

    @property
    def has_regions(self) -> bool:
        """Whether heads are overlapping regions (sigmoid) instead of exclusive classes."""
        return bool(self.region_values)

    @property
    def heads(self) -> int:
        """Number of network outputs."""
        return len(self.names)

    @property
    def all_values(self) -> tuple[int, ...]:
        """Every value a label map may hold, the ignore value included, ascending."""
        found = {0, *(v for values in self.values for v in values)}
        if self.ignore is not None:
            found.add(self.ignore)
        return tuple(sorted(found))

    def empty(self, shape: tuple[int, ...]) -> NDArray[np.unsignedinteger]:
        """A label map of background, of the smallest type that holds every value."""
        return np.zeros(shape, np.uint8 if max(self.all_values) < 256 else np.uint16)

    @property
    def foreground(self) -> dict[str, tuple[int, ...]]:
        """Name -> label values of everything but background: what is scored and sampled."""
        pairs = zip(self.names, self.values, strict=True)
        return {name: values for name, values in pairs if values != (0,)}

    def foreground_mask(self, labels: NDArray) -> NDArray[np.bool_]:
        """Voxels of any structure; neither background nor ignored."""
        mask: NDArray[np.bool_] = labels > 0
        if self.ignore is not None:
            mask &= labels != self.ignore
        return mask

    def as_foreground(self) -> LabelScheme:
        """Two heads, background and foreground: what a locating stage learns."""
        structures = tuple(v for v in self.all_values if v not in (0, self.ignore))
        return LabelScheme(
            names=(BACKGROUND, "foreground"), values=((0,), structures), ignore=self.ignore
        )

    def to_classes(self, labels: NDArray) -> NDArray:
        """Exclusive classes only: label values -> head indices; the ignore value becomes -1."""
        table = np.zeros(max(int(labels.max(initial=0)), *self.all_values) + 1, np.int16)
        for head, values in enumerate(self.values):
            table[list(values)] = head
        if self.ignore is not None:
            table[self.ignore] = -1
        return table[labels]

    def to_regions(self, labels: NDArray) -> NDArray[np.bool_]:
        """Label map (z, y, x) -> one mask a head (heads, z, y, x)."""
        return np.stack([np.isin(labels, values) for values in self.values])

    def decide(self, outputs: NDArray) -> NDArray[np.uint16]:
        """Logits or probabilities (heads, ...) -> label values (...).

        Exclusive classes: the largest head (works on logits and probabilities alike). Regions:
        heads given as probabilities, painted where above one half, in order.
        """
        if not self.has_regions:
            values = np.asarray([v[0] for v in self.values], np.uint16)
            return values[_largest(outputs)]
        result = np.zeros(outputs.shape[1:], np.uint16)
        for head, value in enumerate(self.region_values):
            result[outputs[head] > 0.5] = value
        return result

    def mirrored_heads(self) -> tuple[int, ...]:
        """Order of the heads after left and right have changed places."""
        swap = {a: b for a, b in self.mirror_pairs} | {b: a for a, b in self.mirror_pairs}
        targets = [tuple(sorted(swap.get(v, v) for v in values)) for values in self.values]
        own = [tuple(sorted(values)) for values in self.values]
        try:
            return tuple(own.index(target) for target in targets)
        except ValueError:
            raise DatasetError(
                "dataset.json: a region holds one side of a left/right pair and no region holds "
                "the other; add the opposite region or remove the pair from mirrored_labels."
            ) from None


def _largest(outputs: NDArray) -> NDArray:
    """`outputs.argmax(0)`, ties to the first; head by head, several times faster than across heads."""
    largest = np.array(outputs[0])
    winner = np.zeros(largest.shape, np.uint8 if len(outputs) <= 256 else np.uint16)
    for head in range(1, len(outputs)):
        larger = (outputs[head] > largest).astype(winner.dtype)
        np.maximum(winner, larger * winner.dtype.type(head), out=winner)
        np.maximum(largest, outputs[head], out=largest)
    return winner


def values_in(labels: NDArray) -> list[int]:
    """The values an unsigned label map holds, ascending.

    A look-up table, not a count: `bincount` would turn the whole map into 64-bit integers first.
    """
    seen = np.zeros(np.iinfo(labels.dtype).max + 1, bool)
    for plane in labels:
        low, high = plane.min(), plane.max()
        seen[plane if low != high else low] = True  # most planes hold background alone
    return [int(value) for value in np.flatnonzero(seen)]


def scheme_from_json(
    labels: dict[str, int | list[int]],
    regions_class_order: list[int] | None,
    mirrored: list[tuple[str, str]],
    where: str,
) -> LabelScheme:
    """Build the scheme from dataset.json's entries, checking that they fit together.

    Raises:
        DatasetError: a name that cannot be shown, no background, duplicate or gapped values, regions without
            regions_class_order, an ignore label that is not the highest value, unknown pair names,
            a region without the region of the other side.
    """
    if hidden := [name for name in labels if not name.isprintable() or not name.strip()]:
        raise DatasetError(f"{where}: labels has the name {hidden[0]!a}, which cannot be shown.")
    named = dict(labels)
    ignore = named.pop(IGNORE, None)
    if isinstance(ignore, list):
        raise DatasetError(f"{where}: labels: ignore must be one whole number, not a list.")
    if named.get(BACKGROUND) not in (0, [0]):
        raise DatasetError(f'{where}: labels needs "background": 0; add it.')
    as_lists = {n: tuple(v) if isinstance(v, list) else (v,) for n, v in named.items()}
    used = sorted({v for values in as_lists.values() for v in values})
    _check_values(as_lists, used, ignore, where)
    pairs = tuple(_pair(pair, as_lists, where) for pair in mirrored)
    if not any(isinstance(v, list) and len(v) > 1 for v in named.values()):
        if len(used) != len(as_lists):
            raise DatasetError(f"{where}: labels gives one value to two names: {named}.")
        order = sorted(as_lists, key=lambda name: as_lists[name])
        return LabelScheme(
            names=tuple(order),
            values=tuple(as_lists[name] for name in order),
            ignore=ignore,
            mirror_pairs=pairs,
        )
    regions = {name: values for name, values in as_lists.items() if name != BACKGROUND}
    if regions_class_order is None or len(regions_class_order) != len(regions):
        raise DatasetError(
            f"{where}: labels has regions (lists), so regions_class_order needs one value for each "
            f"of the {len(regions)} regions {list(regions)}, in painting order."
        )
    if unknown := sorted(set(regions_class_order) - set(used)):
        raise DatasetError(
            f"{where}: regions_class_order paints {unknown}, which labels does not declare: {used}."
        )
    scheme = LabelScheme(
        names=tuple(regions),
        values=tuple(regions.values()),
        region_values=tuple(regions_class_order),
        ignore=ignore,
        mirror_pairs=pairs,
    )
    scheme.mirrored_heads()  # fails now rather than after training
    return scheme


def _check_values(
    named: dict[str, tuple[int, ...]], used: list[int], ignore: int | None, where: str
) -> None:
    if not all(named.values()):
        raise DatasetError(f"{where}: labels has a region without values: {named}.")
    if used != list(range(len(used))):
        raise DatasetError(
            f"{where}: label values must be 0, 1, 2 … without gaps, they are {used}; renumber them."
        )
    if len(used) < 2:
        raise DatasetError(f"{where}: labels has nothing but background; name a structure.")
    if ignore is not None and ignore != used[-1] + 1:
        raise DatasetError(
            f"{where}: the ignore label must be the highest value, {used[-1] + 1}, it is {ignore}."
        )


def _pair(pair: tuple[str, str], named: dict[str, tuple[int, ...]], where: str) -> tuple[int, int]:
    for name in pair:
        if len(named.get(name, ())) != 1:
            raise DatasetError(
                f"{where}: mirrored_labels names {name!r}, which is not a label with one value; "
                f"labels are {list(named)}."
            )
    return named[pair[0]][0], named[pair[1]][0]
