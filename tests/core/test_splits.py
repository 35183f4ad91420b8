import json
from pathlib import Path

import pytest

from renalplan.errors import DatasetError, UsageError
from renalplan.splits import Fold, choose_fold, load_splits, make_splits, parse_fold

# two kidneys of each of six patients
PATIENTS = {f"case_{patient}_{side}": f"patient_{patient}" for patient in range(6) for side in "lr"}


def test_each_case_is_held_out_once() -> None:
    folds = make_splits(PATIENTS)
    assert len(folds) == 5
    assert sorted(case for fold in folds for case in fold.val) == sorted(PATIENTS)
    for fold in folds:
        assert sorted(fold.train + fold.val) == sorted(PATIENTS)


def test_a_patient_never_stands_on_both_sides() -> None:
    for fold in make_splits(PATIENTS):
        assert not {PATIENTS[c] for c in fold.train} & {PATIENTS[c] for c in fold.val}


def test_splits_do_not_depend_on_chance_or_order() -> None:
    assert make_splits(PATIENTS) == make_splits(dict(reversed(PATIENTS.items())))
    assert make_splits(PATIENTS) != make_splits(PATIENTS, seed=1)


def test_few_patients_make_as_many_folds() -> None:
    folds = make_splits({"a": "1", "b": "1", "c": "2", "d": "3"})
    assert sorted(fold.val for fold in folds) == [("a", "b"), ("c",), ("d",)]


def test_one_patient_cannot_be_split() -> None:
    with pytest.raises(DatasetError, match=r"at least two patients, there is 1; .* 'all'"):
        make_splits({"a": "1", "b": "1"})


def test_splits_are_stored_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    first = load_splits(path, PATIENTS)
    assert first == make_splits(PATIENTS)
    # a new case does not reshuffle what models have been trained on
    assert load_splits(path, PATIENTS | {"new": "new"}) == first


FOLD = {"train": ["a", "b"], "val": ["c"]}
THREE = {"a": "1", "b": "2", "c": "3"}


@pytest.mark.parametrize("value", [{"folds": [FOLD]}, [FOLD]])
def test_folds_of_the_user_are_honoured_in_both_forms(tmp_path: Path, value: object) -> None:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(value))
    assert load_splits(path, THREE) == [Fold(train=("a", "b"), val=("c",))]
    assert json.loads(path.read_text()) == value


@pytest.mark.parametrize(
    ("folds", "sentence"),
    [
        ([FOLD, {"train": ["a"], "val": ["x"]}], "fold 1 names cases .* not have: x"),
        ([{"train": ["a"], "val": ["a"]}], "trains on and holds out the same patient: 1"),
        ([{"train": ["a"], "val": ["twin"]}], "trains on and holds out the same patient: 1"),
        ([{"train": [], "val": ["a"]}], "fold 0 has no training case"),
        ([{"train": ["a"]}], "folds.0.val: Field required"),
        ([{"train": ["a"], "val": [], "test": []}], "folds.0.test: Extra inputs"),
        ([], "has no folds"),
    ],
)
def test_folds_that_cannot_be_used_are_refused(tmp_path: Path, folds: list, sentence: str) -> None:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(folds))
    with pytest.raises(DatasetError, match=rf"splits.json.*{sentence}"):
        load_splits(path, THREE | {"twin": "1"})


def test_fold_on_the_command_line() -> None:
    assert parse_fold("0") == 0
    assert parse_fold("12") == 12
    assert parse_fold("all") == "all"
    assert parse_fold("cv") == "cv"


@pytest.mark.parametrize("text", ["", "-1", "1.0", "alle", "²"])
def test_other_folds_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"FOLD '{text}' is not a number from 0"):
        parse_fold(text)


def test_a_fold_is_chosen_within_range() -> None:
    folds = make_splits(PATIENTS)
    assert choose_fold(folds, 4) is folds[4]
    for number in (5, -1):
        with pytest.raises(UsageError, match=f"FOLD {number} is out of range: .* folds 0 to 4"):
            choose_fold(folds, number)
