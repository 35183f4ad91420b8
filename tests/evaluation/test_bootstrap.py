"""Bootstrap intervals against scipy's, and what must not depend on chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from renalplan.evaluation.bootstrap import intervals, resampled_means


def test_intervals_are_scipys() -> None:
    values = np.random.default_rng(0).beta(8, 2, (60, 2))
    for column, found in enumerate(intervals(values)):
        theirs = bootstrap(
            (values[:, column],), np.mean, method="percentile", n_resamples=20000, rng=1
        ).confidence_interval
        assert found == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_the_same_values_have_the_same_interval() -> None:
    values = np.arange(12.0).reshape(6, 2)
    assert intervals(values) == intervals(values.copy())
    assert intervals(values[:, :1]) == intervals(values)[:1]


def test_columns_are_resampled_together() -> None:
    values = np.random.default_rng(1).normal(size=(9, 1))
    means = resampled_means(np.hstack([values, values + 3]))
    assert means[:, 1] - means[:, 0] == pytest.approx(np.full(len(means), 3.0))
    assert means.mean(axis=0) == pytest.approx([values.mean(), values.mean() + 3], abs=0.05)


def test_a_single_case_has_no_interval_and_equal_cases_a_point() -> None:
    assert intervals(np.ones((1, 3))) == [None] * 3
    assert intervals(np.full((5, 1), 0.25)) == [(0.25, 0.25)]
