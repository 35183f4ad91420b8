"""Which kidney a tumor belongs to where anatomy or segmentation is unusual, and what is said about it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from renalplan.evaluation.surgery.anatomy import find_anatomy
from renalplan.evaluation.surgery.records import SurgeryNumbers
from renalplan.evaluation.surgery.report import surgery_numbers
from renalplan.geometry import Grid
from renalplan.labels import LabelScheme

LOW, HIGH = (-120.0, -50.0, -50.0), (120.0, 50.0, 50.0)
SPACING = (4.0, 2.5, 2.5)
KIDNEY = (20.0, 18.0, 36.0)
BALL_ML = 4 / 3 * np.pi / 1000  # of a radius of 1 mm


def measure(drawing, scheme, low=LOW, high=HIGH) -> SurgeryNumbers:  # type: ignore[no-untyped-def]
    return surgery_numbers(*drawing.scan(low, high, SPACING), scheme, error_bars=False)


def named(**labels: int) -> LabelScheme:
    names = {"background": 0, **labels}
    return LabelScheme(names=tuple(names), values=tuple((v,) for v in names.values()))


def test_a_tumor_that_has_swallowed_its_kidney_is_told(drawing, scheme) -> None:  # type: ignore[no-untyped-def]
    drawing.ellipsoid("kidney", (-60, 0, 0), KIDNEY)
    drawing.ball("tumor", (60, 4, 8), 34)
    found = measure(drawing, scheme)
    (kidney,) = found.kidneys
    assert kidney.tumors == ()  # it is not the other kidney's
    (remark,) = found.remarks
    assert "60, 4, 8 mm LPS" in remark
    (ml,) = (float(word) for word in remark.replace("(", "").split() if word[-2:-1] == ".")
    assert ml == pytest.approx(BALL_ML * 34**3, rel=0.02)


def test_a_tumor_beside_its_kidney_takes_no_kidneys_place(drawing, scheme) -> None:  # type: ignore[no-untyped-def]
    drawing.ellipsoid("kidney", (-50, 0, 0), KIDNEY)
    drawing.ellipsoid("kidney", (40, 0, 0), (18, 18, 34))
    drawing.ball("tumor", (94, 0, 0), 33)  # larger than either kidney, with a gap of 3 mm
    found = measure(drawing, scheme, high=(130.0, 50.0, 50.0))
    assert [(one.side, len(one.tumors)) for one in found.kidneys] == [("right", 0), ("left", 1)]
    assert found.remarks == ()


def test_a_tumor_at_a_horseshoes_isthmus_stays_whole(drawing, scheme) -> None:  # type: ignore[no-untyped-def]
    for x in (-55, 55):
        drawing.ellipsoid("kidney", (x, 0, 0), KIDNEY)
    drawing.ellipsoid("kidney", (0, -5, -24), (56, 10, 10))
    drawing.ball("tumor", (3, -8, -24), 14)
    found = measure(drawing, scheme)
    right, left = found.kidneys
    assert right.tumors == ()
    (tumor,) = left.tumors
    assert tumor.shape.volume.value == pytest.approx(BALL_ML * 14**3, rel=0.03)
    assert ["hang together" in remark for remark in found.remarks] == [True]


def test_a_tumor_across_the_middle_makes_no_second_kidney(drawing, scheme) -> None:  # type: ignore[no-untyped-def]
    drawing.ellipsoid("kidney", (-55, 0, 0), KIDNEY)
    drawing.ball("tumor", (-4, 0, 0), 36)
    found = measure(drawing, scheme)
    (kidney,) = found.kidneys
    assert kidney.tumors[0].shape.volume.value == pytest.approx(BALL_ML * 36**3, rel=0.03)


def test_two_pieces_on_one_side_are_one_kidney(drawing, scheme) -> None:  # type: ignore[no-untyped-def]
    drawing.ellipsoid("kidney", (-55, 0, 0), KIDNEY)
    for z in (24, -24):
        drawing.ellipsoid("kidney", (55, 0, z), (20, 18, 21))
    found = measure(drawing, scheme)
    assert [one.side for one in found.kidneys] == ["right", "left"]
    volumes = [one.volumes.parenchyma.value for one in found.kidneys]
    assert volumes == pytest.approx([BALL_ML * 20 * 18 * 36, 2 * BALL_ML * 20 * 18 * 21], rel=0.03)
    (remark,) = found.remarks
    assert remark.startswith("The left kidney is measured as one, but consists of 2 pieces")


@pytest.mark.parametrize(("low", "border"), [(-50.0, ""), (-10.0, "(lower)")])
def test_a_kidney_cut_off_by_the_scan_is_told(drawing, scheme, low, border) -> None:  # type: ignore[no-untyped-def]
    drawing.ellipsoid("kidney", (-55, 0, 20), KIDNEY)
    drawing.ellipsoid("kidney", (55, 0, -8), KIDNEY)
    found = measure(drawing, scheme, (LOW[0], LOW[1], low), (HIGH[0], HIGH[1], 62.0))
    assert len(found.remarks) == (2 if border else 0)
    assert all(border in remark for remark in found.remarks)


def two_kidneys(drawing) -> tuple[NDArray, Grid]:  # type: ignore[no-untyped-def]
    """The patient's right one is 1, the left one 8, as the fixture numbers kidney and cortex."""
    drawing.ellipsoid("kidney", (-55, 0, 0), KIDNEY)
    drawing.ellipsoid("cortex", (55, 0, 0), KIDNEY)
    labels, grid = drawing.scan(LOW, HIGH, SPACING)
    return labels, grid


@pytest.mark.parametrize(
    ("right", "left", "told"),
    [
        ("Kidney_R", "Kidney_L", 0),
        ("kidney right", "kidneyLeft", 0),
        ("KIDNEY_L", "right kidney", 2),
    ],
)
def test_sides_that_contradict_the_names_are_told(drawing, right, left, told) -> None:  # type: ignore[no-untyped-def]
    found = surgery_numbers(*two_kidneys(drawing), named(**{right: 1, left: 8}), error_bars=False)
    assert [one.side for one in found.kidneys] == ["right", "left"]
    assert ["mirrored" in remark for remark in found.remarks] == [True] * told


def test_a_single_kidneys_side_is_its_name(drawing) -> None:  # type: ignore[no-untyped-def]
    labels, grid = two_kidneys(drawing)
    labels[labels == 1] = 0
    scheme = named(kidney_left=8, kidney_right=1)
    (kidney,) = surgery_numbers(labels, grid, scheme, error_bars=False).kidneys
    assert (kidney.side, kidney.side_from) == ("left", "the name of its label")


def test_other_organs_are_no_part_of_a_kidney() -> None:
    own = {
        "kidney_left": 1,
        "renal mass": 2,
        "artery": 3,
        "left_renal_vein": 4,
        "kidney_cyst_right": 5,
        "aorta": 6,
        "adrenal-side renal artery": 7,
    }
    others = {
        "liver_tumor": 11,
        "iliac_artery_left": 12,
        "portal_vein_and_splenic_vein": 13,
        "adrenal_cortex": 14,
        "pulmonary_vein": 15,
        "pancreatic cyst": 16,
    }
    anatomy = find_anatomy(named(**own, **others))
    assert anatomy.named == {
        "parenchyma": (1,),
        "tumor": (2,),
        "cyst": (5,),
        "artery": (3, 7),
        "vein": (4,),
        "aorta": (6,),
    }


@pytest.mark.parametrize(("semi", "told"), [((40, 42, 60), False), ((46, 46, 60), True)])
def test_what_is_too_large_for_a_kidney_is_told(drawing, scheme, semi, told) -> None:  # type: ignore[no-untyped-def]
    drawing.ellipsoid("kidney", (-60, 0, 0), semi)  # 422 and 532 ml
    drawing.ellipsoid("kidney", (60, 0, 0), KIDNEY)
    remarks = measure(drawing, scheme, (-120.0, -60.0, -70.0), (120.0, 60.0, 70.0)).remarks
    assert [remark.startswith("The right kidney has 53") for remark in remarks] == [True] * told
