from __future__ import annotations

import pytest

from renalplan.errors import PlanError
from renalplan.planners.patch import fit_patch, start_patch


def test_first_patch_is_as_long_in_mm_along_every_axis() -> None:
    # 256^3 voxels at 4 x 1 x 1 mm: edges in the ratio 1 : 4 : 4, the longest 256 x 4^(1/3)
    assert start_patch((4, 1, 1), (999, 999, 999)) == (102, 406, 406)
    assert start_patch((1, 1), (9999, 9999)) == (2048, 2048)


def test_first_patch_is_no_larger_than_the_case() -> None:
    assert start_patch((1, 1, 1), (100, 300, 20.5)) == (100, 256, 20.5)


def test_patch_that_fits_is_only_padded() -> None:
    assert fit_patch((1, 1, 1), (60, 64, 64), lambda _: True).patch == (64, 64, 64)


def test_axis_that_sees_most_of_the_case_shrinks_first() -> None:
    # all axes start at 256; of 256, 512 and 512 voxels the first is seen whole
    found = fit_patch((1, 1, 1), (256, 512, 512), lambda t: t.voxels < 256**3)
    assert found.patch == (224, 256, 256)


def test_no_axis_shrinks_below_the_minimum() -> None:
    found = fit_patch((1, 1, 1), (12, 64, 64), lambda t: t.voxels <= 16**3, minimum=16)
    assert found.patch == (12, 20, 16)  # 3840 voxels; the first axis saw all and stayed


def test_target_that_nothing_fits_is_an_error() -> None:
    with pytest.raises(PlanError, match="not even a patch of 16 x 16 x 16 voxels fits"):
        fit_patch((1, 1, 1), (64, 64, 64), lambda _: False, minimum=16)
