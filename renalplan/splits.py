"""Five folds, grouped by patient, seeded, stored in splits.json that a user may write instead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from renalplan.errors import DatasetError, UsageError
from renalplan.files import Record, parse_record, read_json, write_json

FOLDS = 5
SEED = 12345


class Fold(Record):
    """Case ids of one fold: what is trained on and what is held out."""

    train: tuple[str, ...]
    val: tuple[str, ...]


class _Splits(BaseModel):
    model_config = ConfigDict(extra="forbid")
    folds: list[Fold]


def make_splits(patients: dict[str, str], folds: int = FOLDS, seed: int = SEED) -> list[Fold]:
    """Split cases so that a patient's cases never stand on both sides.

    Args:
        patients: Case id -> patient.
        folds: How many; fewer patients than folds give one fold a patient.
        seed: Of the shuffle.

    Raises:
        DatasetError: fewer than two patients, so nothing can be held out.
    """
    cases = sorted(patients)
    groups = [patients[case] for case in cases]
    count = min(folds, len(set(groups)))
    if count < 2:
        raise DatasetError(
            f"cross-validation needs cases of at least two patients, there is {len(set(groups))}; "
            "train with FOLD 'all' instead, or add cases."
        )
    from sklearn.model_selection import GroupKFold  # a second to import, and only needed here

    splitter = GroupKFold(n_splits=count, shuffle=True, random_state=seed)
    return [
        Fold(train=tuple(cases[i] for i in train), val=tuple(cases[i] for i in held_out))
        for train, held_out in splitter.split(cases, groups=groups)
    ]


def load_splits(path: Path, patients: dict[str, str]) -> list[Fold]:
    """Read splits.json (ours, or nnU-Net's list form), or make and store it if it is missing.

    Raises:
        DatasetError: the file is not valid, names an unknown case, or has a patient on both sides.
    """
    if not path.exists():
        splits = make_splits(patients)
        write_json(path, {"folds": [fold.model_dump(mode="json") for fold in splits]})
        return splits
    value = read_json(path)
    if isinstance(value, list):
        value = {"folds": value}
    splits = parse_record(value, _Splits, str(path)).folds
    if not splits:
        raise DatasetError(f"{path} has no folds; delete it to have new folds made.")
    for number, fold in enumerate(splits):
        _check(path, number, fold, patients)
    return splits


def _check(path: Path, number: int, fold: Fold, patients: dict[str, str]) -> None:
    if unknown := sorted({*fold.train, *fold.val} - patients.keys()):
        raise DatasetError(
            f"{path}: fold {number} names cases that the dataset does not have: "
            f"{', '.join(unknown[:5])}. Correct the file, or delete it to have new folds made."
        )
    both = {patients[c] for c in fold.train} & {patients[c] for c in fold.val}
    if both:
        raise DatasetError(
            f"{path}: fold {number} trains on and holds out the same patient: "
            f"{', '.join(sorted(both)[:5])}."
        )
    if not fold.train:
        raise DatasetError(f"{path}: fold {number} has no training case.")


def training_share(fold: Fold, share: float, patients: dict[str, str], seed: int) -> Fold:
    """A fold with some of its training patients left out; what is held out stays.

    Args:
        fold: The fold.
        share: How many to keep, at least one patient.
        patients: Case id -> patient, for the training cases.
        seed: Of the draw; a larger share with the same seed holds the smaller one.
    """
    names = sorted({patients[case] for case in fold.train})
    count = max(1, round(share * len(names)))
    kept = {names[i] for i in np.random.default_rng(seed).permutation(len(names))[:count]}
    return Fold(train=tuple(c for c in fold.train if patients[c] in kept), val=fold.val)


def is_fold(text: str) -> bool:
    """Whether `parse_fold` takes it."""
    return text in ("all", "cv") or text.isdecimal()


def parse_fold(text: str) -> int | str:
    """FOLD on the command line: a number from 0, `all`, or `cv`.

    Raises:
        UsageError: anything else.
    """
    if text in ("all", "cv"):
        return text
    if text.isdecimal():
        return int(text)
    raise UsageError(f"FOLD {text!r} is not a number from 0, 'all' or 'cv'.")


def choose_fold(splits: list[Fold], fold: int) -> Fold:
    """One fold of a split.

    Raises:
        UsageError: it is out of range.
    """
    if not 0 <= fold < len(splits):
        raise UsageError(
            f"FOLD {fold} is out of range: this dataset has folds 0 to {len(splits) - 1}; "
            "'all' trains on every case, 'cv' all folds in turn."
        )
    return splits[fold]
