from __future__ import annotations

from collections.abc import Callable

import pytest

from renalplan.planners.cascade import decide, find_lowres, measure_regions
from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.topology import plan_topology

Make = Callable[..., Fingerprint]


def test_regions_are_components_with_margin(
    case: Callable, kidney: Callable, fingerprint: Make
) -> None:
    pieces = [
        kidney((100, 100, 60), (40, 40, 40), 60),
        kidney((100, 100, 160), (40, 40, 40), 60),
        kidney((20, 20, 20), (4, 4, 4), 0.1),
    ]
    found = measure_regions(fingerprint([case("a", (2, 2, 2), (100, 100, 110), pieces)]), (2, 2, 2))
    # 40 mm + 2 x 20 mm margin = 80 mm = 40 voxels; the speck of 0.1 ml opens no box
    assert found.shape == (40, 40, 40)
    assert found.per_case == 2
    assert found.minimum_component_ml == 3.0  # 5 % of 60 ml
    assert found.share == pytest.approx(2 * 40**3 / (100 * 100 * 110))


def test_overlapping_regions_are_one(case: Callable, kidney: Callable, fingerprint: Make) -> None:
    pieces = [
        kidney((100, 100, 80), (40, 40, 40), 60),
        kidney((100, 100, 140), (40, 40, 40), 60),  # 20 mm apart, margins of 20 mm each
    ]
    found = measure_regions(fingerprint([case("a", (2, 2, 2), (100, 100, 110), pieces)]), (2, 2, 2))
    # from 60 - 20 to 160 + 20 mm: 140 mm = 70 voxels
    assert found.shape == (40, 40, 70)
    assert found.per_case == 1


def test_regions_end_at_the_image(case: Callable, kidney: Callable, fingerprint: Make) -> None:
    pieces = [kidney((20, 100, 100), (40, 40, 40), 60)]
    found = measure_regions(fingerprint([case("a", (2, 2, 2), (100, 100, 110), pieces)]), (2, 2, 2))
    assert found.shape == (30, 40, 40)  # no margin before the first slice


@pytest.mark.parametrize(("volume", "minimum"), [(2, 0.5), (100, 5), (1000, 10)])
def test_minimum_component_is_bounded(
    volume: float, minimum: float, case: Callable, kidney: Callable, fingerprint: Make
) -> None:
    pieces = [kidney((100, 100, 100), (40, 40, 40), volume)]
    found = fingerprint([case("a", (2, 2, 2), (100, 100, 110), pieces)])
    assert measure_regions(found, (2, 2, 2)).minimum_component_ml == minimum


def test_small_components_alone_still_open_a_region(
    case: Callable, kidney: Callable, fingerprint: Make
) -> None:
    cases = [
        case(str(n), (2, 2, 2), (100, 100, 110), [kidney((100, 100, 100), (40, 40, 40), volume)])
        for n, volume in enumerate([200, 200, 1])
    ]
    cases.append(case("empty", (2, 2, 2), (100, 100, 110), []))
    assert measure_regions(fingerprint(cases), (2, 2, 2)).per_case == 1


@pytest.mark.parametrize(
    ("patch_share", "region_share", "expected"),
    [
        (1.0, 0.05, "none"),  # a small scan: the patch sees it all
        (0.1, 0.05, "locate"),
        (0.1, 0.8, "lowres"),
        (0.4, 0.8, "none"),
    ],
)
def test_decision(patch_share: float, region_share: float, expected: str) -> None:
    decision, reason = decide(patch_share, region_share)
    assert decision == expected
    assert f"{100 * patch_share:.3g} %" in reason


def test_lowres_coarsens_until_a_quarter_is_seen() -> None:
    patch = plan_topology((1, 1, 1), (128, 128, 128))
    found, _ = find_lowres((1, 1, 1), (512, 512, 512), patch, lambda *_: patch)
    assert found is not None
    # 128^3 is a quarter of n^3 at n = 203.2, so spacing 512 / 203.2 = 2.52 = 1.03^31.3
    assert found.spacing == pytest.approx([1.03**32] * 3)
    assert found.shape == pytest.approx([512 / 1.03**32] * 3)


def test_lowres_coarsens_only_fine_axes_of_thick_slices() -> None:
    patch = plan_topology((5, 1, 1), (32, 128, 128))
    found, _ = find_lowres((5, 1, 1), (64, 400, 400), patch, lambda *_: patch)
    assert found is not None
    # 32 x 128 x 128 is a quarter of 64 x n x n at n = 181, so pixels of 400 / 181 = 2.2 mm suffice
    assert found.spacing[0] == 5
    assert 2.2 < found.spacing[1] < 2.3


def test_lowres_is_dropped_where_it_adds_nothing() -> None:
    patch = plan_topology((1, 1, 1), (128, 128, 128))
    assert find_lowres((1, 1, 1), (160, 160, 160), patch, lambda *_: patch)[0] is None
    # 128^3 sees 23 % of 208^3; one or two steps are enough, and hardly coarser
    found, reason = find_lowres((1, 1, 1), (208, 208, 208), patch, lambda *_: patch)
    assert found is None
    assert "times fewer voxels" in reason
