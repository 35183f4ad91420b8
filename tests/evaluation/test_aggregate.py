from __future__ import annotations

import math

import pytest

from renalplan.evaluation.aggregate import by_case, summarise, to_table
from renalplan.evaluation.columns import (
    CENTERLINE,
    CLDICE,
    DISTANCES,
    LESIONS,
    SCORES,
    SURFACE_DISTANCES,
    Row,
    absent_columns,
    distances_of,
    scores_of,
)


def row(case: str, structure: str, dice: float, note: str = "", predicted_ml: float = 3.0) -> Row:
    scores = dict.fromkeys(SCORES, dice)
    distances = dict.fromkeys(SURFACE_DISTANCES, 10 * (1 - dice))
    distances[CENTERLINE] = 5 * (1 - dice)
    lesions = dict(zip(LESIONS, (int(dice > 0.2), int(dice <= 0.2), 2), strict=True))
    volumes = {"reference_ml": 2.0, "predicted_ml": predicted_ml}
    volumes["volume_error_ml"] = predicted_ml - 2.0
    return {
        "case": case,
        "structure": structure,
        **scores,
        **distances,
        **lesions,
        **volumes,
        "tolerance_mm": 1.0,
        "note": note,
        **dict.fromkeys(absent_columns(structure), math.nan),
    }


ROWS = [
    row("a", "kidney", 0.9),
    row("a", "tumor", 0.4),
    row("b", "kidney", 0.7),
    row("b", "tumor", 0.0, "prediction empty", 0.0),
    row("c", "kidney", 0.0, "missing", 0.0),
    row("c", "tumor", 0.0, "missing", 0.0),
]


def test_numbers_of_a_structure_counted_by_hand() -> None:
    kidney = summarise(to_table(ROWS)).structures["kidney"]
    dice = kidney.scores["dice"]
    assert dice.mean == pytest.approx(1.6 / 3)
    # deviations 11/30, 5/30, -16/30: squares sum to 402/900, divided by n - 1 = 2
    assert dice.sd == pytest.approx((402 / 900 / 2) ** 0.5)
    assert (dice.median, dice.min, dice.max) == (0.7, 0.0, 0.9)
    assert (kidney.n, kidney.worst_case, kidney.notes) == (3, "c", {"missing": 1})
    error = kidney.volumes["volume_error_ml"]
    assert error.mean == pytest.approx((1 + 1 - 2) / 3)  # all of the missing case's volume is
    assert kidney.volumes["absolute_volume_error_ml"].mean == pytest.approx(4 / 3)
    assert kidney.volumes["predicted_ml"].max == 3.0
    assert kidney.lesions is None


def test_lesions_are_counted_over_all_cases() -> None:
    lesions = summarise(to_table(ROWS)).structures["tumor"].lesions
    assert lesions is not None
    assert (lesions.found, lesions.missed, lesions.false) == (1, 2, 6)
    assert (lesions.sensitivity, lesions.precision) == (1 / 3, 1 / 7)
    assert lesions.false_per_case == 2
    none = to_table([row("a", "tumor", 0.5) | dict.fromkeys(LESIONS, 0)])
    nothing = summarise(none).structures["tumor"].lesions
    assert nothing is not None
    assert (nothing.sensitivity, nothing.precision) == (None, None)


def test_worst_case_of_a_tie_is_the_first() -> None:
    tumor = summarise(to_table(ROWS)).structures["tumor"]
    assert tumor.worst_case == "b"
    assert tumor.notes == {"missing": 1, "prediction empty": 1}


def test_structures_count_equally_in_the_mean() -> None:
    summary = summarise(to_table(ROWS), missing=("c",), extra=("x",))
    assert summary.means["dice"] == pytest.approx((1.6 / 3 + 0.4 / 3) / 2)
    assert (summary.cases, summary.predictions) == (3, 2)


def test_the_worst_of_a_distance_is_its_largest() -> None:
    found = summarise(to_table(ROWS)).structures["kidney"].scores["hausdorff_mm"]
    assert found.mean == pytest.approx((1 + 3 + 10) / 3)
    assert (found.median, found.min, found.max) == pytest.approx((3, 1, 10))


def test_only_tubes_have_a_centerline_and_only_they_are_averaged() -> None:
    common = {*SCORES, *SURFACE_DISTANCES} - {CLDICE}
    assert set(summarise(to_table(ROWS)).means) == common
    rows = [*ROWS, row("a", "renal artery", 0.5), row("b", "renal artery", 0.9)]
    summary = summarise(to_table(rows))
    assert set(summary.means) == {*SCORES, *DISTANCES}
    assert summary.means["centerline_mm"] == pytest.approx(1.5)  # of the artery alone
    assert "centerline_mm" not in summary.structures["kidney"].scores
    assert summary.structures["renal artery"].scores["centerline_mm"].max == pytest.approx(2.5)
    every = [s for found in summary.structures.values() for s in found.scores.values()]
    assert all(math.isfinite(s.mean) for s in every)


def test_a_single_case_has_neither_sd_nor_interval() -> None:
    dice = summarise(to_table(ROWS[:1])).structures["kidney"].scores["dice"]
    assert (dice.sd, dice.ci95) == (None, None)


def test_every_number_has_an_interval_around_its_mean() -> None:
    for found in summarise(to_table(ROWS)).structures.values():
        for values in (*found.scores.values(), *found.volumes.values()):
            assert values.ci95 is not None
            assert values.ci95[0] <= values.mean <= values.ci95[1]
        assert set(found.scores) <= {*scores_of("vein"), *distances_of("vein")}


def test_cases_come_worst_first() -> None:
    assert list(by_case(to_table(ROWS)).index) == ["c", "b", "a"]
