"""How much each member of an ensemble counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from renalplan.errors import UsageError
from renalplan.files import real_path


def require_once(members: Sequence[Path | str]) -> None:
    """Refuse a member that is named twice, by whatever path.

    Raises:
        UsageError: one is.
    """
    known = [real_path(Path(member)) for member in members]
    for number, member in enumerate(members):
        if known[number] in known[:number]:
            raise UsageError(f"{member} is given twice; use --weights to have it count more.")


def member_weights(weights: Sequence[float] | None, members: int, what: str) -> list[float] | None:
    """Check the weights of an ensemble.

    Args:
        weights: One a member, in their order; None if all count alike.
        members: How many there are.
        what: What a member is, in the plural: `models` or `folders`.

    Returns:
        The weights as given; None if all count alike.

    Raises:
        UsageError: another number of weights than members, or one that is not above 0.
    """
    if weights is None:
        return None
    given = [float(weight) for weight in weights]
    shown = " ".join(f"{weight:g}" for weight in given)
    if len(given) != members:
        raise UsageError(
            f"--weights {shown}: {len(given)} for {members} {what}; give one to each, in their order."
        )
    if not all(math.isfinite(weight) and weight > 0 for weight in given):
        raise UsageError(
            f"--weights {shown}: each must be above 0; leave out {what} that shall not count."
        )
    return None if len(set(given)) == 1 else given
