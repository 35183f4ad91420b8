"""Input sizes a network with poolings can take."""

from __future__ import annotations

from collections.abc import Sequence


def nearest_sizes(size: int, divisor: int) -> tuple[int, ...]:
    """The allowed sizes around one that is not: the multiple below (if any) and the one above."""
    below = size // divisor * divisor
    return tuple(n for n in (below, below + divisor) if n > 0)


def require_multiples(shape: Sequence[int], divisor: Sequence[int], what: str) -> None:
    """Refuse a (z, y, x) size that does not survive the poolings.

    Args:
        shape: Voxels along each spatial axis.
        divisor: What each must be a multiple of.
        what: Subject of the message, e.g. "the input of DenseBiasNet".

    Raises:
        ValueError: with the nearest allowed sizes, axis by axis.
    """
    if not any(n % d for n, d in zip(shape, divisor, strict=True)):
        return
    wrong = [
        f"{axis} {n} (nearest {' or '.join(map(str, nearest_sizes(n, d)))})"
        for axis, n, d in zip(("first", "second", "third"), shape, divisor, strict=True)
        if n % d
    ]
    raise ValueError(
        f"{what} has {' x '.join(map(str, shape))} voxels, but every axis must be a multiple of "
        f"{' x '.join(map(str, divisor))}; axes that are not: {', '.join(wrong)}"
    )
