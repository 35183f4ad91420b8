"""Several folds' per_case.csv -> one table and the numbers over all cases.

Each case is predicted by the one model that has not seen it, so the folds' cases together are one
sample: means and spreads are over all cases, the folds' own means stand beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from renalplan.errors import DatasetError, UsageError
from renalplan.evaluation.aggregate import Summary, summarise
from renalplan.evaluation.columns import COLUMNS, MISSING, TOLERANCE, distances_of, scores_of
from renalplan.evaluation.evaluate import PAGE
from renalplan.evaluation.figures import colour_of
from renalplan.evaluation.page import named, section
from renalplan.evaluation.page import table as html_table
from renalplan.evaluation.summary import summary_page
from renalplan.evaluation.tables import PER_CASE, read_table, write_table
from renalplan.files import Record, remove_leftovers, write_json, write_pieces

CROSSVAL_CSV, CROSSVAL_JSON, CROSSVAL_PAGE = "crossval.csv", "crossval.json", "crossval.html"


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
    """Join the folds' tables and write crossval.csv, crossval.json and crossval.html.

    Args:
        fold_folders: Fold -> the folder that holds its per_case.csv.
        out: Folder to write into.
        page: Also write crossval.html (without pictures; it links the folds' own pages, which have
            them).

    Raises:
        UsageError: there is no fold.
        DatasetError: a per_case.csv is missing or not one of ours, a case is in two folds, or the
            folds do not score the same structures with the same tolerance.
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
    remove_leftovers(out, (CROSSVAL_CSV, CROSSVAL_JSON, CROSSVAL_PAGE))
    files = [out / CROSSVAL_CSV, out / CROSSVAL_JSON]
    write_table(files[0], table)
    write_json(files[1], summary)
    if page:
        files.append(out / CROSSVAL_PAGE)
        title = f"Cross-validation, {len(tables)} fold{'s' if len(tables) > 1 else ''}"
        write_pieces(
            files[2],
            summary_page(table, overall, [], title, _folds_section(summary, fold_folders, out)),
        )
    return CrossValidation(table=table, summary=summary, files=tuple(files))


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
        mixed = pd.concat([tables[first], table]).groupby("structure")[TOLERANCE].nunique()
        if (mixed > 1).any():
            raise DatasetError(
                f"{folders[fold] / PER_CASE} and fold {first} have different tolerances of "
                f"{mixed.idxmax()}; evaluate both with one --tolerance."
            )
        for case in table["case"].unique():
            if case in owner:
                raise DatasetError(
                    f"{case} is in folds {owner[case]} and {fold}; a case counts once, so give "
                    "folds of one split."
                )
            owner[case] = fold


def _folds_section(
    summary: CrossValidationSummary, folders: dict[int, Path], out: Path
) -> tuple[str, ...]:
    """Mean Dice of every fold, with links to the folds' own pages where there are any."""
    folds = list(summary.cases_of_folds)
    colours = colour_of(tuple(summary.fold_means))
    heads = []
    for fold in folds:
        name, page = f"Fold {fold}", folders[fold] / PAGE
        if page.is_file() and page.resolve().is_relative_to(out.resolve()):
            link = quote(page.resolve().relative_to(out.resolve()).as_posix())
            name = f'<a href="{link}">{name}</a>'
        heads.append(name)
    rows = [
        [named(structure, colours[structure]), *(f"{means['dice'][f]:.3f}" for f in folds)]
        for structure, means in summary.fold_means.items()
    ]
    rows.append(["Cases", *(str(count) for count in summary.cases_of_folds.values())])
    return tuple(section("Mean Dice of each fold", html_table(("Structure", *heads), rows)))


def _fold_means(tables: dict[int, pd.DataFrame], structure: str) -> dict[str, dict[int, float]]:
    return {
        name: {
            fold: float(table.loc[table["structure"] == structure, name].mean())
            for fold, table in tables.items()
        }
        for name in (*scores_of(structure), *distances_of(structure))
    }
