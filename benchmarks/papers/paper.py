"""What a paper compared: the form of its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row: a trainer with settings, and what the paper reports for it.

    Attributes:
        name: Of the row, as the paper has it.
        key: Of the model folder.
        trainer: Trainer name.
        settings: `--set` of every schedule.
        small: More of them in the short schedule for phantoms.
        configuration: Of the plan; None is its default.
        paper: Column -> the paper's number, where it gives one.
        begins_as: Key of an arm before it and the phases that both have alike: they are copied
            from its fold instead of being run again.
    """

    name: str
    key: str
    trainer: str
    settings: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    configuration: str | None = None
    paper: dict[str, str] = field(default_factory=dict)
    begins_as: tuple[str, tuple[str, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One paper's comparison.

    Attributes:
        title: Of the table.
        number: Of the phantom dataset.
        phantom: Arguments of `make_phantom_dataset`, for the data made here.
        plan: Arguments of `PlanOptions`, for that data.
        configurations: Of the plan that must be preprocessed; None is the default one.
        arms: The rows.
        shares: Shares of the labelled training patients: every arm is run with each.
        small: Settings of every row in the short schedule for phantoms, on top of the arm's own.
        columns: (structure, score, heading) to show.
        groups: A number that phantom_truth.json has of every case, and what to call the cases of each
            of its values: they get a table each. None for one table.
        after: Another table: of the plan's stores, the models' folder and the seeds.
    """

    title: str
    number: int
    phantom: dict[str, Any]
    plan: dict[str, Any]
    configurations: list[str] | None
    arms: tuple[Arm, ...]
    shares: tuple[float, ...]
    small: tuple[str, ...]
    columns: tuple[tuple[str, str, str], ...]
    groups: tuple[str, dict[int, str]] | None = None
    after: Callable[[Path, Path, list[int]], str] | None = None
