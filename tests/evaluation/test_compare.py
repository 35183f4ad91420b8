"""Cross-validations side by side: what can be compared, and the means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from renalplan.errors import DatasetError, UsageError
from renalplan.evaluation.cases import score_labels
from renalplan.evaluation.compare import comparable, read_validated
from renalplan.evaluation.dice import structure_dice
from renalplan.labels import LabelScheme

HEAD = (
    "case,structure,dice,iou,sensitivity,precision,surface_dice,cldice,hausdorff_mm,hd95_mm,"
    "average_hausdorff_mm,assd_mm,centerline_mm,lesions_found,lesions_missed,lesions_false,"
    "reference_ml,predicted_ml,volume_error_ml,tolerance_mm,note\n"
)


def fold(folder: Path, **cases: tuple[float, float] | str) -> Path:
    """A table: case -> Dice of kidney and tumor, or a note."""
    folder.mkdir(parents=True)
    text = HEAD
    for case, value in cases.items():
        note = value if isinstance(value, str) else ""
        values = (0.0, 0.0) if isinstance(value, str) else value
        for structure, dice in zip(("kidney", "tumor"), values, strict=True):
            lesions = "1,0,0" if structure == "tumor" else ",,"
            text += (
                f"{case},{structure},{dice},0.5,0.5,0.5,0.5,,9.0,8.0,2.0,1.5,,{lesions},"
                f"1.0,1.0,0.0,1.0,{note}\n"
            )
    (folder / "per_case.csv").write_text(text)
    return folder


def test_means_are_over_the_cases_of_all_folds(tmp_path: Path) -> None:
    found = read_validated(
        "UNet",
        {
            0: fold(tmp_path / "0", b=(0.9, 0.3), a=(0.6, 0.6)),
            1: fold(tmp_path / "1", c=(0.3, 0.0)),
            2: tmp_path / "not validated",
        },
    )
    assert found.cases == {0: ("a", "b"), 1: ("c",)}
    assert found.dice == pytest.approx({"kidney": 0.6, "tumor": 0.3})
    assert found.extent() == "folds 0, 1 (3 cases)"


def test_only_equal_folds_and_structures_are_compared(tmp_path: Path) -> None:
    value = (0.5, 0.5)
    whole = {0: fold(tmp_path / "w0", a=value), 1: fold(tmp_path / "w1", b=value)}
    part = {0: fold(tmp_path / "p0", a=value)}
    swapped = {0: fold(tmp_path / "s0", b=value), 1: fold(tmp_path / "s1", a=value)}
    models = [
        read_validated(name, folders)
        for name, folders in (("part", part), ("one", whole), ("two", whole), ("swap", swapped))
    ]
    odd = read_validated("odd", whole)
    odd.dice["cyst"] = 1.0
    alike, others = comparable([*models, odd])
    assert [model.name for model in alike] == ["one", "two"]
    assert others["part"].startswith("part was validated on fold 0 (1 case), one on folds 0, 1 (2")
    assert "swap was validated on folds 0, 1 (2 cases), one on other cases" in others["swap"]
    assert "odd was scored for kidney, tumor, cyst, one for kidney, tumor" in others["odd"]


def test_cross_validations_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="UNet has no scored held-out cases"):
        read_validated("UNet", {0: tmp_path})
    with pytest.raises(UsageError, match=r"m/per_case.csv: b was not predicted"):
        read_validated("UNet", {0: fold(tmp_path / "m", a=(1, 1), b="missing")})
    twice = {n: fold(tmp_path / f"t{n}", a=(1, 1)) for n in (0, 1)}
    with pytest.raises(UsageError, match="a is held out in folds 0 and 1"):
        read_validated("UNet", twice)
    (tmp_path / "t0" / "per_case.csv").write_text("case\n")
    with pytest.raises(DatasetError, match="lacks the columns"):
        read_validated("UNet", twice)


@pytest.mark.parametrize(
    "scheme",
    [
        LabelScheme(names=("background", "kidney", "tumor"), values=((0,), (1,), (2,)), ignore=3),
        LabelScheme(names=("kidney", "tumor"), values=((1, 2), (2,)), region_values=(1, 2)),
    ],
    ids=["classes", "regions"],
)
def test_the_dice_is_that_of_the_evaluation(scheme: LabelScheme) -> None:
    rng = np.random.default_rng(1)
    top = 4 if scheme.ignore else 3
    for size in (0, 3, 12):
        truth, found = np.zeros((2, 12, 13, 14), np.uint8)
        truth[:size, :size, :size] = rng.integers(0, top, (size,) * 3)
        found[:size, 1 : size + 1, :size] = rng.integers(0, 3, (size,) * 3)
        rows = score_labels("a", truth, found, (1.0, 2.0, 3.0), scheme)
        expected = {row["structure"]: row["dice"] for row in rows}
        assert structure_dice(truth, found, (1.0, 2.0, 3.0), scheme) == expected
