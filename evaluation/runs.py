"""Several runs' tables of the same cases: what `renalplan_compare` reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from renalplan.errors import UsageError
from renalplan.evaluation.columns import TOLERANCE, absent_columns
from renalplan.evaluation.crossval import CROSSVAL_CSV
from renalplan.evaluation.tables import PER_CASE, read_table


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One run's scores.

    Attributes:
        name: The end of its path that no other run shares.
        path: The table that was read.
        table: One row for each case and structure, columns `columns.COLUMNS`.
    """

    name: str
    path: Path
    table: pd.DataFrame

    def values(self, structure: str, column: str) -> pd.Series:
        """One number of one structure by case id, sorted."""
        rows = self.table[self.table["structure"] == structure]
        return rows.set_index("case")[column].sort_index()

    @property
    def structures(self) -> list[str]:
        """In the table's order."""
        return [str(name) for name in self.table["structure"].unique()]


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read the tables of several runs and check that they can be compared case by case.

    Args:
        paths: Folders that `renalplan_evaluate` wrote into, model folders with a cross-validation,
            or such tables themselves; at least two.

    Raises:
        UsageError: fewer than two, one given twice, one without a table, or runs of other cases, other
            structures or other tolerances than the first one.
        DatasetError: a table is damaged.
    """
    if len(paths) < 2:
        raise UsageError("a comparison needs two runs at least; give the folders of their tables.")
    tables = [find_table(path) for path in paths]
    for table in tables:
        if tables.count(table) > 1:
            raise UsageError(f"{table} is given twice; give every run once.")
    names = _names([path.absolute() for path in paths])
    runs = [
        Run(name=name, path=table, table=read_table(table))
        for name, table in zip(names, tables, strict=True)
    ]
    for run in runs:
        _require_same(runs[0], run)
    if runs[0].table["case"].nunique() < 2:
        raise UsageError(f"{runs[0].path} has one case; a comparison needs two at least.")
    return runs


def find_table(path: Path) -> Path:
    """The table in a folder: per_case.csv, or crossval.csv of a model.

    Raises:
        UsageError: there is none.
    """
    if path.is_file():
        return path
    for name in (PER_CASE, CROSSVAL_CSV):
        if (path / name).is_file():
            return path / name
    if folds := sorted(path.glob(f"fold_*/validation/{PER_CASE}")):
        raise UsageError(
            f"{path} is a model without a cross-validation: it has no {CROSSVAL_CSV}; train its other folds "
            f"(renalplan_train with FOLD cv), or give {folds[0].parent}, which can be compared as it is."
        )
    raise UsageError(
        f"{path} has neither {PER_CASE} nor {CROSSVAL_CSV}; run renalplan_evaluate with -o {path}, or "
        "give the folder it wrote into."
    )


def _names(paths: list[Path]) -> list[str]:
    """The shortest ends of the paths that differ."""
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _require_same(first: Run, other: Run) -> None:
    cases, others = set(first.table["case"]), set(other.table["case"])
    if odd := sorted(cases ^ others):
        where = first if odd[0] in cases else other
        raise UsageError(
            f"{first.path} and {other.path} are not of the same cases: {odd[0]} is only in {where.path} "
            f"({len(odd)} such cases); evaluate both against the same references."
        )
    if odd := sorted(set(first.structures) ^ set(other.structures)):
        raise UsageError(
            f"{first.path} and {other.path} do not score the same structures: {', '.join(odd)} only in "
            "one of them; evaluate both with the same --labels."
        )
    for structure in first.structures:
        for run in (first, other):
            if not run.values(structure, "dice").index.equals(
                first.values(structure, "dice").index
            ):
                raise UsageError(f"{run.path}: {structure} has not one row for each case.")
        if not first.values(structure, TOLERANCE).equals(other.values(structure, TOLERANCE)):
            raise UsageError(
                f"{first.path} and {other.path} have different tolerances of {structure}; evaluate both "
                "with the same --tolerance."
            )


def has_column(structure: str, column: str) -> bool:
    """Whether a structure has a score or distance."""
    return column not in absent_columns(structure)
