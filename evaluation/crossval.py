"""Several folds' per_case.csv -> one table and the numbers over all cases.

Each case is predicted by the one model that has not seen it, so the folds' cases together are one
sample: means and spreads are over all cases, the folds' own means stand beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from renalplan.errors import DatasetError, UsageError
from renalplan.evaluation.aggregate import Summary, summarise
from renalplan.evaluation.cases import COLUMNS, DISTANCES, MISSING, SCORES, distances_of
from renalplan.evaluation.evaluate import PAGE, PER_CASE, write_table
from renalplan.evaluation.summary import summary_page
from renalplan.files import Record, remove_leftovers, write_json, write_text

CROSSVAL_CSV, CROSSVAL_JSON = "crossval.csv", "crossval.json"


class CrossValidationSummary(Record):
    """What crossval.json holds.

    Attributes:
        cases_of_folds: Fold -> number of its cases.
        fold_means: Structure -> score or distance -> fold -> mean over that fold's cases; a
            distance the structure does not have is not there.
        overall: Numbers over the cases of all folds.
    """

    cases_of_folds: dict[int, int]
    fold_means: dict[str, dict[str, dict[int, float]]]
    overall: Summary


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossValidation:
    """What gathering the folds found.

    Attributes:
        table: One row for each case and structure: `fold` and the columns of per_case.csv.
        summary: The numbers, as in crossval.json.
        files: What was written, in order.
    """

    table: pd.DataFrame
    summary: CrossValidationSummary
    files: tuple[Path, ...]


def gather_folds(fold_folders: dict[int, Path], out: Path, *, page: bool = True) -> CrossValidation:
    """Join the folds' tables and write crossval.csv, crossval.json and summary.html.

    Args:
        fold_folders: Fold -> the folder that holds its per_case.csv.
        out: Folder to write into.
        page: Also write summary.html (without pictures; the folds' own pages have them).

    Raises:
        UsageError: there is no fold.
        DatasetError: a per_case.csv is missing or not one of ours, a case is in two folds, or the
            folds do not score the same structures.
    """
    if not fold_folders:
        raise UsageError("a cross-validation needs at least one fold; none was given.")
    tables = {fold: read_table(fold_folders[fold] / PER_CASE) for fold in sorted(fold_folders)}
    _require_one_sample(tables, fold_folders)
    parts = [rows.assign(fold=fold)[["fold", *COLUMNS]] for fold, rows in tables.items()]
    table = pd.concat(parts, ignore_index=True)
    missing = tuple(str(case) for case in table.loc[table["note"] == MISSING, "case"].unique())
    overall = summarise(table, missing=missing)
    summary = CrossValidationSummary(
        cases_of_folds={fold: int(rows["case"].nunique()) for fold, rows in tables.items()},
        fold_means={name: _fold_means(tables, name) for name in overall.structures},
        overall=overall,
    )
    remove_leftovers(out, (CROSSVAL_CSV, CROSSVAL_JSON, PAGE))
    files = [out / CROSSVAL_CSV, out / CROSSVAL_JSON]
    write_table(files[0], table)
    write_json(files[1], summary)
    if page:
        files.append(out / PAGE)
        title = f"Cross-validation, {len(tables)} fold{'s' if len(tables) > 1 else ''}"
        write_text(files[2], summary_page(table, overall, [], title))
    return CrossValidation(table=table, summary=summary, files=tuple(files))


def read_table(path: Path) -> pd.DataFrame:
    """Read a per_case.csv; case ids stay text, also `007` and `NA`.

    Raises:
        DatasetError: the file is missing, empty, damaged or lacks a column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if lacking := [name for name in COLUMNS if name not in table.columns]:
            raise DatasetError(f"{path} lacks the columns {lacking}; evaluate this fold again.")
        numbers = [name for name in COLUMNS if name not in ("case", "structure", "note")]
        absent = _without(table)
        table[numbers] = table[numbers].mask(absent[numbers], "nan")
        # from text, since pandas' own reading of numbers rounds the last digit
        table[numbers] = table[numbers].astype(float)
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist; evaluate this fold first.") from None
    except DatasetError:
        raise
    except (OSError, ValueError) as problem:  # pandas' parser errors are ValueErrors
        raise DatasetError(f"{path} cannot be read as a table: {problem}.") from None
    if table.empty:
        raise DatasetError(f"{path} has no rows; evaluate this fold again.")
    if not (np.isfinite(table[numbers].to_numpy()) | absent[numbers].to_numpy()).all():
        raise DatasetError(f"{path} has numbers that are not finite; evaluate this fold again.")
    return table


def _without(table: pd.DataFrame) -> pd.DataFrame:
    """Where an empty cell is right: in the distances that the row's structure does not have."""
    absent = pd.DataFrame(False, index=table.index, columns=table.columns)
    for name in DISTANCES:
        lacking = [name not in distances_of(structure) for structure in table["structure"]]
        absent[name] = np.array(lacking, bool) & (table[name] == "").to_numpy()
    return absent


def _require_one_sample(tables: dict[int, pd.DataFrame], folders: dict[int, Path]) -> None:
    first = min(tables)
    structures = set(tables[first]["structure"])
    owner: dict[str, int] = {}
    for fold, table in tables.items():
        if odd := structures ^ set(table["structure"]):
            raise DatasetError(
                f"{folders[fold] / PER_CASE} and fold {first} do not score the same structures: "
                f"{sorted(odd)} is only in one of them; evaluate both with one dataset.json."
            )
        for case in table["case"].unique():
            if case in owner:
                raise DatasetError(
                    f"{case} is in folds {owner[case]} and {fold}; a case counts once, so give "
                    "folds of one split."
                )
            owner[case] = fold


def _fold_means(tables: dict[int, pd.DataFrame], structure: str) -> dict[str, dict[int, float]]:
    return {
        name: {
            fold: float(table.loc[table["structure"] == structure, name].mean())
            for fold, table in tables.items()
        }
        for name in (*SCORES, *distances_of(structure))
    }
