"""What `--require` accepts and reports."""

from __future__ import annotations

import pandas as pd
import pytest

from renalplan.errors import UsageError
from renalplan.evaluation.aggregate import Summary, summarise
from renalplan.evaluation.columns import COLUMNS, SCORES
from renalplan.evaluation.requirements import parse_requirements, shortfalls


@pytest.fixture
def summary() -> Summary:
    """Two cases of one structure with Dice 0.8 and 0.6: mean 0.7."""
    rows = [
        dict.fromkeys(COLUMNS, 1.0)
        | {"case": c, "structure": "kidney", "note": ""}
        | dict.fromkeys(SCORES, d)
        for c, d in (("a", 0.8), ("b", 0.6))
    ]
    return summarise(pd.DataFrame(rows, columns=list(COLUMNS)))


def test_a_mean_below_the_requirement_is_named(summary: Summary) -> None:
    assert shortfalls({"kidney": 0.75}, summary) == [
        "kidney: mean Dice 0.7000 is below the required 0.75"
    ]


def test_a_mean_at_or_above_the_requirement_passes(summary: Summary) -> None:
    assert shortfalls({"kidney": 0.65}, summary) == []


def test_a_structure_that_was_not_scored_is_refused(summary: Summary) -> None:
    with pytest.raises(UsageError, match=r"no such structure; there are kidney"):
        shortfalls({"tumor": 0.5}, summary)


def test_requirements_are_parsed_by_name() -> None:
    assert parse_requirements(["kidney=0.85", "left kidney=0.5"]) == {
        "kidney": 0.85,
        "left kidney": 0.5,
    }


@pytest.mark.parametrize("text", ["kidney", "kidney=", "kidney=high", "=0.5", "kidney=85"])
def test_malformed_requirements_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="needs the form NAME=DICE"):
        parse_requirements([text])
