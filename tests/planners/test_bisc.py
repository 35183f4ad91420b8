"""BiSC-UNet's geometry: a rough network on 128 x 128 voxels, a fine one on regions of 160 or 192."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from math import prod

import pytest
import torch

from renalplan.errors import PlanError, UsageError
from renalplan.model_folder import build_network
from renalplan.plan import NetworkSpec, Plan, StagePlan
from renalplan.planners.bisc import EDGE_BYTES, HEAD_BYTES, scunet_bytes
from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.memory import GB
from renalplan.planners.options import PlanOptions
from renalplan.planners.patch import usable_gb
from renalplan.planners.planner import PLANNERS, make_plan

Make = Callable[..., Fingerprint]


@pytest.fixture
def kits(case: Callable, kidney: Callable, fingerprint: Make) -> Make:
    """KiTS19 at the paper's spacing: 400 mm of body in plane, 300 mm of scan, kidneys of 110 mm."""

    def make(
        spacing: tuple[float, float, float] = (3.0, 0.78125, 0.78125),
        shape: tuple[int, int, int] = (100, 512, 512),
        width: float = 60.0,
        pieces: int = 2,
    ) -> Fingerprint:
        found = [
            kidney((150, 200, 130), (110, width, 60), 200),
            kidney((160, 200, 270), (110, width, 60), 190),
            kidney((20, 20, 20), (5, 5, 5), 0.1),
        ]
        cases = [case(f"case_{n}", spacing, shape, [*found[:pieces], found[2]]) for n in range(10)]
        return fingerprint(cases, heads=3)

    return make


def _plan(found: Fingerprint, **options: object) -> Plan:
    return make_plan(found, PlanOptions(planner="bisc", **options))  # type: ignore[arg-type]


def test_it_can_be_asked_for_by_name() -> None:
    assert "bisc" in PLANNERS


def test_kits_gets_the_papers_geometry(kits: Make) -> None:
    plan = _plan(kits())
    assert plan.axes == ("z", "y", "x")
    assert plan.configurations == {"rough_fine": ("rough", "fine"), "single": ("single",)}
    rough, fine = plan.run()
    assert rough.spacing == pytest.approx((3.0, 3.125, 3.125))
    assert rough.median_shape == (100, 128, 128)
    assert rough.patch_size[1:] == (128, 128)
    assert (rough.region, rough.target, rough.previous) == ("volume", "labels", None)
    assert fine.spacing == pytest.approx((3.0, 0.78125, 0.78125))
    # 110 mm are 36.7 slices: 48 is the next multiple of 16
    assert fine.median_shape == (48, 160, 160)
    assert fine.patch_size[1:] == (160, 160)
    assert (fine.region, fine.previous, fine.previous_as_channels) == ("kidney", "rough", False)
    assert fine.margin_mm == 45
    assert fine.minimum_component_ml == 10  # at most, 5 % of 200 ml
    single = plan.stage("single")
    assert (single.patch_size, single.spacing) == (fine.patch_size, fine.spacing)
    assert single.batch_size == fine.batch_size
    assert (single.region, single.previous) == ("volume", None)
    for stage in plan.stages:
        assert stage.patch_size[0] % 16 == 0
        assert 2 <= stage.batch_size <= 8


def test_wide_kidneys_get_192_voxels(kits: Make) -> None:
    assert _plan(kits(width=130.0)).stage("fine").patch_size[1:] == (192, 192)


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((100, 256, 256), (3.0, 0.78125, 0.78125), 3.125),  # four times coarser, 64 voxels
        ((100, 512, 512), (3.0, 0.98, 0.98), 3.92),
        ((100, 256, 256), (3.0, 2.0, 2.0), 6.0),  # 8 mm would be too coarse …
        ((100, 512, 512), (3.0, 2.0, 2.0), 8.0),  # … but a body of 1024 mm leaves no choice
        ((40, 64, 64), (8.0, 7.0, 7.0), 7.0),  # never finer than the target
    ],
)
def test_how_coarse_the_rough_stage_is(
    kits: Make,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    expected: float,
) -> None:
    rough = _plan(kits(spacing, shape)).stage("rough")
    assert rough.spacing == pytest.approx((spacing[0], expected, expected))
    assert max(rough.patch_size[1:]) <= 128


def test_forecasts_count_every_kidney(kits: Make) -> None:
    both, one = (_plan(kits(pieces=n)).stage("fine").forecast for n in (2, 1))
    assert both is not None
    assert one is not None
    assert one.voxels_per_case == 48 * 160 * 160
    assert both.voxels_per_case == 2 * one.voxels_per_case
    assert both.windows_per_case == 2 * one.windows_per_case


@pytest.mark.parametrize("features", [4, 32])  # the U-Net is smaller, and larger, than SC-UNet
@pytest.mark.parametrize("memory", [3, 4, 6, 8, 12, 24, 80])
def test_every_stage_fits_its_target(memory: float, features: int, kits: Make) -> None:
    plan = _plan(kits(), gpu_memory_gb=memory, base_features=features)
    for stage in plan.stages:
        assert stage.forecast is not None
        assert stage.forecast.training_memory_gb <= usable_gb(memory) + 1e-3
        needed = scunet_bytes(prod(stage.patch_size), 3, stage.batch_size)
        assert needed <= usable_gb(memory) * GB


def test_less_memory_means_fewer_slices_then_less_in_plane_and_then_no_plan(kits: Make) -> None:
    stages = [_plan(kits(), gpu_memory_gb=m).stage("fine") for m in (3, 6, 12, 80)]
    voxels = [prod(stage.patch_size) * stage.batch_size for stage in stages]
    assert voxels == sorted(voxels)
    assert voxels[0] < voxels[1] < voxels[2] < voxels[3]
    assert stages[-1].batch_size == 8
    assert stages[0].patch_size == (16, 160, 160)
    assert [stage.batch_size for stage in stages] == sorted(s.batch_size for s in stages)
    small = _plan(kits(), gpu_memory_gb=1.0, base_features=8).stage("fine").patch_size
    assert small[0] == 16
    assert 32 <= small[1] < 160
    assert not [n for n in small if n % 16]
    with pytest.raises(PlanError, match=r"2 patches of 16 x 32 x 32 voxels do not fit 0.01 GB"):
        _plan(kits(), gpu_memory_gb=0.01)


@pytest.mark.parametrize("cascade", ["none", "lowres"])
def test_it_always_locates(cascade: str, kits: Make) -> None:
    with pytest.raises(PlanError, match=f"--planner bisc always locates; --cascade {cascade}"):
        _plan(kits(), cascade=cascade)
    assert _plan(kits(), cascade="locate") == _plan(kits())


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_thick_axis_goes_first_and_everything_with_it(
    order: tuple[int, int, int], case: Callable, kidney: Callable, fingerprint: Make
) -> None:
    """All (z, y, x) values turned; only z is `across slices`, whichever axis is thick."""
    spacing, shape = (4.0, 0.8, 1.0), (80, 500, 400)

    def turned(values: tuple) -> tuple:
        return tuple(values[a] for a in order)

    pieces = [
        kidney(turned((150, 200, 130)), turned((110, 60, 70)), 200),
        kidney(turned((160, 200, 270)), turned((110, 60, 70)), 200),
    ]
    cases = [case(str(n), turned(spacing), turned(shape), pieces) for n in range(4)]
    plan = _plan(fingerprint(cases, heads=2), gpu_memory_gb=40)
    assert plan.axes[0] == "zyx"[order.index(0)]
    fine = plan.stage("fine")
    assert fine.spacing == tuple(turned(spacing)["zyx".index(axis)] for axis in plan.axes)
    # at least the kidney along every axis
    extent = tuple(turned((110, 60, 70))["zyx".index(axis)] for axis in plan.axes)
    assert all(
        n * s >= mm for n, s, mm in zip(fine.median_shape, fine.spacing, extent, strict=True)
    )
    rough = plan.stage("rough")
    in_plane = [n for n, axis in zip(rough.patch_size, plan.axes, strict=True) if axis != "z"]
    assert max(in_plane) <= 128


def test_a_spacing_can_be_asked_for(kits: Make) -> None:
    plan = _plan(kits(), spacing=(4.0, 1.0, 1.0))
    assert plan.stage("fine").spacing == (4.0, 1.0, 1.0)
    assert plan.stage("fine").patch_size == (32, 128, 128)  # 125 mm: 128 voxels
    assert plan.stage("rough").spacing == (4.0, 4.0, 4.0)


def test_every_field_has_a_reason(kits: Make) -> None:
    plan = _plan(kits())
    for record in (plan, *plan.stages):
        decided = set(type(record).model_fields) - {"version", "warnings", "reasons"}
        if isinstance(record, StagePlan):
            decided -= {"name"}
        assert decided <= set(record.reasons), decided - set(record.reasons)
        assert all(record.reasons[name] for name in decided)


def test_the_u_net_can_train_on_every_stage_too(kits: Make) -> None:
    plan = _plan(kits(), base_features=2, max_features=4)
    for stage in plan.stages:
        strides = stage.network.arguments["strides"]
        for axis, n in enumerate(stage.patch_size):
            assert n % prod(stride[axis] for stride in strides) == 0
        arguments = {**stage.network.arguments, "in_channels": 1, "heads": 3}
        network = build_network(
            NetworkSpec(factory=stage.network.factory, arguments=arguments), "test"
        )
        small = [2 * prod(stride[axis] for stride in strides) for axis in range(3)]
        with torch.inference_mode():
            out = network.eval()(torch.zeros(1, 1, *small))
        assert out.shape == (1, 3, *small)


def test_bytes_grow_with_voxels_batch_and_edges() -> None:
    one = scunet_bytes(1000, 3, 1)
    assert scunet_bytes(1000, 3, 4) == scunet_bytes(4000, 3, 1) == 4 * one
    more = scunet_bytes(1000, 4, 1) - one  # one class with its edge more
    assert more == 1000 * (EDGE_BYTES + HEAD_BYTES)


def test_an_unknown_name_is_still_refused(kits: Make) -> None:
    with pytest.raises(UsageError, match="bisc"):
        make_plan(kits(), PlanOptions(planner="bics"))
