"""Which structure is the kidney and which the tumor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from renalplan.errors import UsageError
from renalplan.kidney_tumor import find_kidney_tumor
from renalplan.labels import LabelScheme, scheme_from_json


def _scheme(order: list[int] | None = None, **labels: Any) -> LabelScheme:
    named = {name.replace("_", " "): value for name, value in labels.items()}
    return scheme_from_json({"background": 0, **named}, order, [], "dataset.json")


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (_scheme(kidney=1, tumor=2), ("kidney", "tumor", (2,), (1, 2))),
        (_scheme(Mass=1, organ=2), ("organ", "Mass", (1,), (1, 2))),
        (_scheme(kidney=1, kidney_tumour=2), ("kidney", "kidney tumour", (2,), (1, 2))),
        (_scheme([1, 2], kidney=[1, 2], tumor=2), ("kidney", "tumor", (2,), (1, 2))),
        (_scheme(kidney=1, lesion=2, ignore=3), ("kidney", "lesion", (2,), (1, 2))),
    ],
)
def test_a_lesions_name_tells_it_from_the_kidney(scheme: LabelScheme, expected: tuple) -> None:
    found = find_kidney_tumor(scheme)
    assert (found.kidney, found.tumor, found.tumor_values, found.values) == expected


def test_names_can_be_given() -> None:
    scheme = _scheme(a=1, b=2)
    assert find_kidney_tumor(scheme, tumor="a").kidney == "b"
    assert find_kidney_tumor(scheme, kidney="a").tumor == "b"
    assert find_kidney_tumor(_scheme(tumor=1, cyst=2), tumor="cyst").kidney == "tumor"


@pytest.mark.parametrize(
    ("scheme", "asked", "message"),
    [
        (_scheme(kidney=1), {}, "the dataset has kidney"),
        (_scheme(kidney=1, tumor=2, cyst=3), {}, "the dataset has kidney, tumor, cyst"),
        (_scheme(left_kidney=1, right_kidney=2), {}, "left kidney or right kidney"),
        (_scheme(tumor=1, cyst=2), {}, "--set tumor_label=NAME"),
        (_scheme(kidney=1, tumor=2), {"tumor": "tumour"}, "no structure 'tumour'; it has kidney"),
        (_scheme(a=1, b=2), {"kidney": "a", "tumor": "a"}, "a or b"),
    ],
)
def test_what_is_not_clear_is_asked(scheme: LabelScheme, asked: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_kidney_tumor(scheme, **asked)


def test_masks_are_kidney_with_tumor_and_tumor() -> None:
    labels = np.array([[[0, 1, 2, 3]]])
    both, tumor = find_kidney_tumor(_scheme(kidney=1, tumor=2, ignore=3)).masks(labels)
    assert both.tolist() == [[[False, True, True, False]]]
    assert tumor.tolist() == [[[False, False, True, False]]]
