"""per_case.csv: written in full precision, read back with every mistake told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from renalplan.errors import DatasetError
from renalplan.evaluation.columns import COLUMNS, SCORES, TEXTS, absent_columns
from renalplan.files import atomic_file

PER_CASE = "per_case.csv"


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV by rename, numbers in full precision."""
    with atomic_file(path) as temporary:
        table.to_csv(temporary, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """Read a per_case.csv; case ids stay text, also `007` and `NA`.

    Returns:
        Its columns, those of `COLUMNS` among them; what a structure does not have is NaN.

    Raises:
        DatasetError: the file is missing, empty, damaged, lacks a column or holds what is no score.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if lacking := [name for name in COLUMNS if name not in table.columns]:
            raise DatasetError(f"{path} lacks the columns {lacking}; evaluate these cases again.")
        numbers = [name for name in COLUMNS if name not in TEXTS]
        absent = _without(table)
        table[numbers] = table[numbers].mask(absent[numbers], "nan")
        # from text, since pandas' own reading of numbers rounds the last digit
        table[numbers] = table[numbers].astype(float)
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist; evaluate these cases first.") from None
    except DatasetError:
        raise
    except (OSError, ValueError) as problem:  # pandas' parser errors are ValueErrors
        reason = " ".join(str(problem).split()).rstrip(".")  # pandas' sentences have line breaks
        raise DatasetError(f"{path} cannot be read as a table: {reason}.") from None
    if table.empty:
        raise DatasetError(f"{path} has no rows; evaluate these cases again.")
    if not (np.isfinite(table[numbers].to_numpy()) | absent[numbers].to_numpy()).all():
        raise DatasetError(f"{path} has numbers that are not finite; evaluate these cases again.")
    scores = table[list(SCORES)]
    if not ((scores >= 0) & (scores <= 1) | scores.isna()).all(axis=None):
        raise DatasetError(f"{path} has scores beyond 0 to 1; evaluate these cases again.")
    return table


def _without(table: pd.DataFrame) -> pd.DataFrame:
    """Where an empty cell is right: in the columns that the row's structure does not have."""
    absent = pd.DataFrame(False, index=table.index, columns=table.columns)
    for structure in table["structure"].unique():
        columns = list(absent_columns(str(structure)))
        rows = table["structure"] == structure
        absent.loc[rows, columns] = table.loc[rows, columns] == ""
    return absent
