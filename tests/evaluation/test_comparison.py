"""Runs compared: the tests by hand and against scipy, the rankings, what is refused, the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, wilcoxon

from renalplan.errors import DatasetError, UsageError
from renalplan.evaluation.columns import COLUMNS, absent_columns
from renalplan.evaluation.comparison import compare_runs
from renalplan.evaluation.comparison_record import Comparison
from renalplan.evaluation.paired import compare_pairs, holm
from renalplan.evaluation.runs import read_runs
from renalplan.evaluation.stability import rank_stability
from renalplan.evaluation.tables import write_table
from renalplan.files import read_record

CASES = [f"c{i:02}" for i in range(20)]


def run(folder: Path, kidney: np.ndarray, tumor: np.ndarray, **columns: object) -> Path:
    """A table of 20 cases with these Dice; distances are ten times what lacks to 1."""
    folder.mkdir(parents=True)
    rows = []
    for structure, dice in (("kidney", kidney), ("tumor", tumor)):
        for case, value in zip(CASES, dice, strict=False):
            row = dict.fromkeys(COLUMNS, 1.0) | {"case": case, "structure": structure, "note": ""}
            row |= {"dice": value, "surface_dice": value, "hd95_mm": 10 * (1 - value)} | columns
            rows.append(row | dict.fromkeys(absent_columns(structure), float("nan")))
    write_table(folder / "per_case.csv", pd.DataFrame(rows, columns=list(COLUMNS)))
    return folder


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """`good` is better than the others everywhere, `same` and `bad` differ by noise."""
    rng = np.random.default_rng(0)
    base, noise = rng.uniform(0.5, 0.8, (2, 20)), rng.normal(0, 0.02, (2, 20))
    return [
        run(tmp_path / "bad", *base),
        run(tmp_path / "same", *(base + noise)),
        run(tmp_path / "good", *(base + 0.1)),
    ]


def test_a_difference_counted_by_hand() -> None:
    found = compare_pairs(np.array([4.0, 2, 5, 1, 3]), np.array([1.0, 3, 3, 1, -1]))
    # differences 3, -1, 2, 0, 4: ranks 3, 1, 2, 4 of which 9 of 10 are of larger cases
    assert found.mean == pytest.approx(1.6)
    assert (found.larger, found.smaller) == (3, 1)
    assert found.rank_biserial == pytest.approx((9 - 1) / 10)
    assert found.p == pytest.approx(4 / 16)  # rank sums of 0 or 1, either way, of 16 sign patterns
    assert found.cohens_dz == pytest.approx(1.6 / np.std([3, -1, 2, 0, 4], ddof=1))


@pytest.mark.parametrize("seed", range(5))
def test_p_is_scipys_and_turns_with_the_order(seed: int) -> None:
    first, second = np.random.default_rng(seed).normal(size=(2, 30)) + np.array([[0.3], [0]])
    found, other = compare_pairs(first, second), compare_pairs(second, first)
    assert found.p == pytest.approx(wilcoxon(first, second).pvalue)
    assert other.p == pytest.approx(found.p)
    assert other.rank_biserial == pytest.approx(-found.rank_biserial)
    assert found.ci95 is not None
    assert found.ci95[0] < found.mean < found.ci95[1]


def test_equal_runs_do_not_differ_and_rounding_is_no_difference() -> None:
    values = np.linspace(0.1, 0.9, 9)
    for other in (values, values + 1e-15):
        found = compare_pairs(values, other)
        assert (found.mean, found.larger, found.smaller, found.p) == (0, 0, 0, 1)
        assert (found.rank_biserial, found.cohens_dz) == (0, None)


def test_holm_by_hand() -> None:
    # 4 x 0.01, then 3 x 0.02, then the larger of that and 2 x 0.03, then 1 x 0.04 no less than that
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_clear_ranking_is_stable_and_a_tie_is_shared() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.1, (30, 3)) + np.array([1, 2, 3])
    found = rank_stability(values, higher_is_better=True)
    assert found.ranks == (3, 2, 1)
    assert found.first == (0, 0, 1)
    assert found.kendall_tau == 1
    assert rank_stability(values, higher_is_better=False).ranks == (1, 2, 3)
    tie = rank_stability(values[:, [0, 0]], higher_is_better=True)
    assert (tie.ranks, tie.first) == ((1.5, 1.5), (0.5, 0.5))


def test_an_unclear_ranking_changes_as_often_as_its_bootstrap_says() -> None:
    from renalplan.evaluation.bootstrap import resampled_means

    values = np.random.default_rng(1).normal(0, 1, (12, 4))
    found = rank_stability(values, higher_is_better=True)
    means = resampled_means(values)
    assert found.first == pytest.approx(np.bincount(means.argmax(axis=1), minlength=4) / len(means))
    taus = [kendalltau(values.mean(axis=0), row).statistic for row in means[:300]]
    assert found.kendall_tau == pytest.approx(np.mean(taus), abs=0.1)
    for rank, (low, high) in zip(found.ranks, found.ranks95, strict=True):
        assert low <= rank <= high


def test_the_better_run_is_named_in_scores_and_distances(three: list[Path], tmp_path: Path) -> None:
    result = compare_runs(three, tmp_path / "out")
    found = read_record(tmp_path / "out" / "compare.json", Comparison)
    assert found == result.comparison
    assert list(found.runs) == ["bad", "same", "good"]
    assert len(found.tests) == 3 * 2 * 3  # metrics, structures, pairs
    for test in found.tests:
        expected = "good" if "good" in (test.first, test.second) else None
        assert test.better == expected, test
        assert test.p_holm >= test.p
    first = found.rankings[0]
    assert (first.metric, first.structure) == ("dice", "")
    assert first.ranks["good"] == 1
    assert first.first["good"] == 1
    distance = next(t for t in found.tests if t.metric == "hd95_mm" and t.second == "good")
    assert distance.mean == pytest.approx(1.0)  # ten times 0.1, more for the worse run
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count("<svg") == 3 * 2
    assert "http" not in page
    assert "<script" not in page


@pytest.mark.parametrize("name", ["compare.json", "compare.html"])
def test_a_file_that_is_no_comparison_stays(three: list[Path], tmp_path: Path, name: str) -> None:
    compare_runs(three, tmp_path / "out")
    compare_runs(three, tmp_path / "out")  # its own files it replaces
    (tmp_path / name).write_text('{"cases": 3}')
    with pytest.raises(UsageError, match=rf"{name} is there already and is not known"):
        compare_runs(three, tmp_path)
    assert (tmp_path / name).read_text() == '{"cases": 3}'


def test_names_are_the_ends_of_paths_that_differ(three: list[Path], tmp_path: Path) -> None:
    values = np.linspace(0.1, 0.9, 20)
    paths = [run(tmp_path / name / "validation", values, values) for name in ("a", "b")]
    assert [r.name for r in read_runs(paths)] == ["a/validation", "b/validation"]
    assert [r.name for r in read_runs(three)] == ["bad", "same", "good"]


def test_a_cross_validation_is_a_run(three: list[Path], tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    table = pd.read_csv(three[0] / "per_case.csv", dtype=str, keep_default_na=False)
    write_table(model / "crossval.csv", table.assign(fold="0").iloc[::-1])
    first, second = read_runs([three[0], model])
    pd.testing.assert_series_equal(first.values("tumor", "dice"), second.values("tumor", "dice"))


@pytest.mark.parametrize(("cases", "needed"), [(2, 8), (7, 8), (8, 0)])
def test_so_few_cases_that_nothing_can_be_significant_are_told(
    tmp_path: Path, cases: int, needed: int
) -> None:
    """All cases better: p is 2 / 2^n, by 6 tests that is below 0.05 from 8 cases on."""
    values = np.linspace(0.5, 0.7, cases)
    paths = [run(tmp_path / name, values + d, values + d) for name, d in (("a", 0), ("b", 0.1))]
    comparison = compare_runs(paths, tmp_path).comparison
    assert any(test.better for test in comparison.tests) == (needed == 0)
    if needed:
        assert f"{cases} cases are too few" in comparison.too_few
        assert comparison.too_few.endswith(f"that takes {needed} cases.")
    else:
        assert comparison.too_few == ""
    page = (tmp_path / "compare.html").read_text()
    assert ("cases are too few" in page) == (needed > 0)


def test_what_cannot_be_compared_is_told(three: list[Path], tmp_path: Path) -> None:
    values = np.linspace(0.1, 0.9, 20)
    folds = run(tmp_path / "Model/fold_3/validation", values, values).parent.parent
    fewer = run(tmp_path / "fewer", values[:-1], values[:-1])
    other = run(tmp_path / "other", values, values, tolerance_mm=2.0)
    renamed = run(tmp_path / "renamed", values, values, structure="organ")
    for paths, problem in (
        (three[:1], "needs two runs at least"),
        ([three[0], three[0]], "given twice"),
        ([three[0], tmp_path], r"neither per_case.csv nor crossval.csv"),
        ([three[0], folds], r"cross-validation: .* FOLD cv\), or give .*fold_3/validation"),
        ([three[0], fewer], r"c19 is only in .*bad/per_case.csv \(1 such cases\)"),
        ([three[0], other], "different tolerances of kidney"),
        ([three[0], renamed], "do not score the same structures"),
    ):
        with pytest.raises(UsageError, match=problem):
            compare_runs(paths)
    for metrics, problem in (
        (["volume"], "--metrics volume: name each once, of dice, iou"),
        (["dice", "dice"], "--metrics dice: name each once"),
        (["cldice"], "none of kidney, tumor has it"),
    ):
        with pytest.raises(UsageError, match=problem):
            compare_runs(three, metrics=metrics)
    (three[0] / "per_case.csv").write_text("case\n")
    with pytest.raises(DatasetError, match="lacks the columns"):
        compare_runs(three)
