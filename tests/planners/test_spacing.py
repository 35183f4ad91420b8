from __future__ import annotations

from collections.abc import Callable

import pytest

from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.spacing import (
    coarse_axis_first,
    coarsest_first,
    median_shape,
    refine_for_structures,
    structure_warnings,
    target_spacing,
    thin_structures,
)

Make = Callable[..., Fingerprint]


def test_target_is_the_median(scans: Make) -> None:
    found = scans(
        (1, (1, 0.6, 0.6), (300, 512, 512)),
        (1, (1.5, 0.7, 0.7), (200, 512, 512)),
        (1, (2, 0.9, 0.9), (150, 512, 512)),
    )
    assert target_spacing(found).spacing == pytest.approx((1.5, 0.7, 0.7))


def test_thick_slices_use_the_tenth_percentile(scans: Make) -> None:
    # ten cases of 5 mm and one of 2 mm: the 10th percentile of eleven is the second smallest
    found = scans((10, (5, 1, 1), (60, 512, 512)), (1, (2, 1, 1), (150, 512, 512)))
    target = target_spacing(found)
    assert target.spacing == pytest.approx((5, 1, 1))
    # with two of twelve at 2 mm it lies at 1.1 of eleven steps: 2 + 0.1 x 3
    found = scans((10, (5, 1, 1), (60, 512, 512)), (2, (2, 1, 1), (150, 512, 512)))
    assert target_spacing(found).spacing == pytest.approx((2.3, 1, 1))
    assert "10th percentile there, 2.3 mm" in target_spacing(found).reason


def test_thick_slices_never_become_finer_than_pixels(scans: Make) -> None:
    found = scans((6, (5, 1, 1), (60, 512, 512)), (4, (0.5, 1, 1), (600, 512, 512)))
    assert target_spacing(found).spacing == pytest.approx((1 + 1e-5, 1, 1), abs=1e-9)


def test_thick_slices_without_few_slices_stay_at_the_median(scans: Make) -> None:
    # 3 x 200 slices are not below 512 pixels
    found = scans((9, (4, 1, 1), (200, 512, 512)), (3, (2, 1, 1), (400, 512, 512)))
    assert target_spacing(found).spacing == pytest.approx((4, 1, 1))


def test_spacing_asked_for_replaces_the_rule(scans: Make) -> None:
    target = target_spacing(scans((1, (1, 1, 1), (64, 64, 64))), (2, 1.5, 1.5))
    assert target.spacing == (2, 1.5, 1.5)
    assert "asked for" in target.reason


def test_median_shape_follows_the_spacing(scans: Make) -> None:
    found = scans((1, (2, 1, 1), (50, 100, 100)), (1, (2, 1, 1), (51, 101, 101)))
    assert median_shape(found, (1, 2, 2)).tolist() == [101, 50, 50]  # 50.5 rounds to even


def test_nnunet_moves_any_coarsest_axis_first_we_only_a_really_coarser_one() -> None:
    assert coarsest_first((0.625, 0.7, 0.7)) == (1, 0, 2)
    assert coarse_axis_first((0.625, 0.7, 0.7))[0] == (0, 1, 2)
    order, reason = coarse_axis_first((0.8, 0.8, 4))
    assert order == (2, 0, 1)
    assert "x is 5 times coarser" in reason
    assert coarse_axis_first((1, 1.5, 1))[0] == (1, 0, 2)
    assert coarse_axis_first((5, 1, 1))[0] == (0, 1, 2)


def test_thickness_is_the_median_over_cases_that_have_it(case: Callable, fingerprint: Make) -> None:
    cases = [
        case(str(n), (1, 1, 1), (64, 64, 64), thickness_mm={"kidney": 40.0, "artery": value})
        for n, value in enumerate([1.0, None, 3.0, 2.0])
    ]
    artery, kidney = thin_structures(fingerprint(cases))
    assert (artery.name, artery.thickness_mm, artery.needed_mm) == ("artery", 2.0, 1.0)
    assert kidney.thickness_mm == 40


def _mixed(case: Callable, fingerprint: Make, thickness: float | None) -> Fingerprint:
    """Ten cases of 3 mm slices and four of 1 mm; pixels of 0.8 mm."""
    spacings = [3.0] * 10 + [1.0] * 4
    cases = [
        case(str(n), (z, 0.8, 0.8), (200, 256, 256), thickness_mm={"artery": thickness})
        for n, z in enumerate(spacings)
    ]
    return fingerprint(cases)


def test_thin_structure_refines_the_axis_that_the_data_can_refine(
    case: Callable, fingerprint: Make
) -> None:
    found = _mixed(case, fingerprint, 2.4)
    refined = refine_for_structures(target_spacing(found), found)
    # 2.4 mm should span two voxels: 1.2 mm, and the 10th percentile (1 mm) allows it
    assert refined.spacing == pytest.approx((1.2, 0.8, 0.8))
    assert "z from 3 to 1.2 mm: artery is typically 2.4 mm thick" in refined.reason
    assert structure_warnings(refined.spacing, found) == ()


def test_refining_stops_at_the_finest_tenth_and_warns(case: Callable, fingerprint: Make) -> None:
    found = _mixed(case, fingerprint, 1.8)
    refined = refine_for_structures(target_spacing(found), found)
    assert refined.spacing == pytest.approx((1.0, 0.8, 0.8))
    (warning,) = structure_warnings(refined.spacing, found)
    assert "artery is typically 1.8 mm thick" in warning
    assert "z 1 mm;" in warning


@pytest.mark.parametrize("thickness", [40.0, None])
def test_thick_or_absent_structures_change_nothing(
    thickness: float | None, case: Callable, fingerprint: Make
) -> None:
    found = _mixed(case, fingerprint, thickness)
    target = target_spacing(found)
    assert refine_for_structures(target, found) == target
    assert structure_warnings(target.spacing, found) == ()


def test_own_spacing_is_not_judged(case: Callable, fingerprint: Make) -> None:
    found = _mixed(case, fingerprint, 2.0)
    assert structure_warnings((None, 0.8, 0.8), found) == ()
