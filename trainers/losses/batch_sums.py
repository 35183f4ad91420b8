"""Sums over a batch of which a loss may see only a part.

A batch can be divided: among processes, or into parts that follow one another. A loss that is a mean
over samples needs nothing: the mean of its parts' values, each weighed by its samples, is its value.
One that divides sums over the batch (a Dice of the whole batch, a mean over the voxels that count)
does not fall into parts like that, and takes its sums with `batch_sum`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Total = Callable[[Tensor], Tensor]
_total: ContextVar[Total | None] = ContextVar("_total", default=None)


def batch_sum(values: Tensor) -> Tensor:
    """A sum over this part of a batch -> the sum over the whole batch, of the same shape.

    Call it as often, and in the same order, for every part.
    """
    total = _total.get()
    return values if total is None else total(values)


@contextmanager
def summed_by(total: Total | None) -> Iterator[None]:
    """Within the block `batch_sum` is this function; None takes what a loss sees for all there is.

    With None also a block within another one: for a loss of something else than the batch.
    """
    before = _total.set(total)
    try:
        yield
    finally:
        _total.reset(before)


def with_own_gradient(total: Tensor, own: Tensor, weight: float) -> Tensor:
    """A sum over the batch whose gradient is that of this part's share in it.

    Args:
        total: The sum over all parts.
        own: What this part adds to it.
        weight: Share of the batch that the part is. Its loss will be multiplied by that, which must
            not shrink what the part adds to a sum: the gradient is divided by it.
    """
    return total.detach() + (own - own.detach()) / weight
