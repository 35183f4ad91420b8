"""Trainer names -> classes: installed ones by entry point, a user's own by `module:Class`."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from renalplan.errors import ModelError, UsageError
from renalplan.imports import load_class, named_on_command_line, trainer_entry_points

if TYPE_CHECKING:
    from renalplan.trainers.trainer import Trainer

TYPO = 0.8  # so alike, a name is a slip of the finger and not another trainer


def trainer_path(name: str) -> str:
    """The import path a trainer's name stands for; nothing heavy is imported.

    Raises:
        UsageError: no trainer has this name; the nearest ones are named.
    """
    if ":" in name:
        return named_on_command_line(name)
    known = {key: point.value for key, point in trainer_entry_points().items()}
    if name in known:
        return known[name]
    lowered = {key.lower(): key for key in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.4)
    if close and difflib.SequenceMatcher(None, close[0], name.lower()).ratio() >= TYPO:
        close = close[:1]
    near = [lowered[match] for match in close]
    hint = (
        f"Did you mean {' or '.join(near)}?"
        if near
        else f"Installed are {', '.join(sorted(known))}."
    )
    raise UsageError(
        f"no trainer {name!r}. {hint} For your own, give its import path, for example "
        "my_trainers:MyTrainer."
    )


def find_trainer(name: str) -> type[Trainer]:
    """The trainer class of this name.

    Raises:
        UsageError: there is none, or the import path leads to no trainer.
    """
    from renalplan.trainers.trainer import Trainer

    try:
        return load_class(trainer_path(name), Trainer, f"TRAINER {name}")  # type: ignore[type-abstract]
    except ModelError as problem:
        raise UsageError(str(problem)) from None
