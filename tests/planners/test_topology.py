from __future__ import annotations

import numpy as np
import pytest

from renalplan.planners.topology import plan_topology


def test_cube_is_halved_down_to_four() -> None:
    # 64 -> 32 -> 16 -> 8 -> 4: four poolings, five stages
    topology = plan_topology((1, 1, 1), (64, 64, 64))
    assert topology.stages == 5
    assert topology.divisor == (16, 16, 16)
    assert topology.sizes[-1] == (4, 4, 4)
    assert set(topology.kernels) == {(3, 3, 3)}


def test_thick_slices_wait_until_pixels_are_as_coarse() -> None:
    # pixels 1 -> 2 -> 4 mm; 5 mm slices join once 5 < 2 x 4, and the kernel with them
    topology = plan_topology((5, 1, 1), (16, 128, 128))
    assert topology.strides[:4] == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert topology.kernels[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))


def test_patch_is_padded_up_to_the_divisor() -> None:
    # 60 -> 30 -> 15 -> 8 -> 4: four poolings, so the next multiple of 16
    assert plan_topology((1, 1), (60, 60)).patch == (64, 64)


def test_half_voxels_of_a_median_are_rounded_up() -> None:
    assert plan_topology((1, 1), (15.5, 7)).patch == (16, 7)


def test_single_axis_needs_twelve_voxels() -> None:
    # the other axis has 4 voxels: 8 is not enough to pool alone, 12 is
    assert plan_topology((1, 1), (8, 4)).stages == 1
    assert plan_topology((1, 1), (12, 4)).stages == 2


def test_flat_topology_gets_a_first_axis_of_one() -> None:
    flat = plan_topology((1, 1), (32, 32)).as_3d()
    assert flat.patch == (1, 32, 32)
    assert flat.divisor == (1, 8, 8)
    assert {kernel[0] for kernel in flat.kernels} == {1}
    assert flat.as_3d() is flat


@pytest.mark.parametrize("dims", [2, 3])
def test_random_inputs_keep_the_invariants(dims: int) -> None:
    random = np.random.default_rng(7)
    for _ in range(300):
        spacing = random.uniform(0.3, 6, dims).tolist()
        patch = random.integers(4, 400, dims).tolist()
        found = plan_topology(spacing, patch)
        assert len(found.strides) == len(found.kernels)
        for wanted, padded, divisor, smallest in zip(
            patch, found.patch, found.divisor, found.sizes[-1], strict=True
        ):
            assert padded % divisor == 0
            assert wanted <= padded < wanted + divisor
            assert smallest == padded // divisor >= 4
        assert found.strides[0] == (1,) * dims
        assert found.kernels[-1] == (3,) * dims
        # a kernel, once 3, stays 3
        assert all(
            a <= b
            for before, after in zip(found.kernels[:-1], found.kernels[1:], strict=True)
            for a, b in zip(before, after, strict=True)
        )
