from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest

from renalplan.errors import PlanError
from renalplan.plan import Plan, StagePlan
from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.patch import usable_gb
from renalplan.planners.planner import PlanOptions, make_plan

Make = Callable[..., Fingerprint]


def _phantoms(case: Callable, kidney: Callable, fingerprint: Make) -> Fingerprint:
    """Six small scans of 48 x 72 x 72 voxels at 6 x 5 x 5 mm with two kidneys."""
    pieces = [
        kidney((150, 180, 110), (110, 60, 60), 180),
        kidney((150, 180, 250), (110, 60, 60), 180),
    ]
    cases = [case(str(n), (6, 5, 5), (48, 72, 72), pieces) for n in range(6)]
    return fingerprint(cases)


def _names(plan: Plan) -> list[str]:
    return [stage.name for stage in plan.run()]


def test_large_scans_with_small_kidneys_are_located_first(abdomens: Make) -> None:
    plan = make_plan(abdomens(), PlanOptions())
    assert plan.configurations == {"locate_fine": ("locate", "fine")}
    locate, fine = plan.run()
    assert (locate.region, locate.target, locate.batch_size) == ("volume", "foreground", 2)
    assert locate.spacing == (4, 4, 4)
    assert locate.median_shape == (100, 100, 100)  # 400 mm of scan
    assert locate.patch_size == (112, 112, 112)  # one patch sees the median scan
    assert locate.network.arguments["features"][0] == 16
    assert (fine.region, fine.previous, fine.target) == ("kidney", "locate", "labels")
    assert fine.spacing == pytest.approx((1, 0.78125, 0.78125))
    # 110 + 2 x 20 mm; 60 + 2 x 20 mm = 128 voxels, and up to two by rounding margin and box
    assert fine.median_shape[0] == 150
    assert 128 <= fine.median_shape[1] <= 131
    assert fine.patch_size == (128, 128, 128)
    assert fine.margin_mm == 20
    assert fine.minimum_component_ml == 9  # 5 % of 180 ml
    assert fine.forecast is not None
    assert fine.forecast.voxels_per_case == 2 * prod(fine.median_shape)


def test_small_scans_have_one_stage(case: Callable, kidney: Callable, fingerprint: Make) -> None:
    found = _phantoms(case, kidney, fingerprint)
    plan = make_plan(found, PlanOptions(gpu_memory_gb=1, base_features=8))
    assert _names(plan) == ["whole"]
    assert plan.stage("whole").patch_size == (48, 80, 80)
    assert plan.stage("whole").network.arguments["features"][:2] == [8, 16]
    assert "0.25 times nnU-Net's width" in plan.stage("whole").reasons["network"]


@pytest.mark.parametrize("memory", [0.3, 0.5, 1.0])
def test_tiny_targets_locate_too(
    memory: float, case: Callable, kidney: Callable, fingerprint: Make
) -> None:
    options = PlanOptions(gpu_memory_gb=memory, base_features=8, cascade="locate")
    plan = make_plan(_phantoms(case, kidney, fingerprint), options)
    locate, fine = plan.run()
    assert locate.spacing == (6, 5, 5)  # no finer than the scans
    for stage in (locate, fine):
        strides = stage.network.arguments["strides"]
        assert len(strides) >= 3
        for axis, (patch, median) in enumerate(
            zip(stage.patch_size, stage.median_shape, strict=True)
        ):
            divisor = prod(stride[axis] for stride in strides)
            assert patch % divisor == 0
            assert min(16, median) <= patch < median + divisor


def test_large_foreground_is_seen_coarsely_first(scans: Make) -> None:
    plan = make_plan(scans((20, (1, 0.78, 0.78), (400, 512, 512)), heads=3), PlanOptions())
    assert plan.configurations == {"lowres_fullres": ("lowres", "fullres")}
    fullres = plan.stage("fullres")
    assert fullres.previous == "lowres"
    assert fullres.previous_as_channels
    assert "2 one-hot channels" in fullres.reasons["previous_as_channels"]
    fine, coarse = fullres.spacing[0], plan.stage("lowres").spacing[0]
    assert fine is not None
    assert coarse is not None
    assert coarse > fine
    # one float16 image and one uint8 label a voxel: labels of the stage before are not stored
    assert fullres.forecast is not None
    assert fullres.forecast.store_mb_per_case == pytest.approx(3 * 400 * 512 * 512 / 1e6, abs=0.01)


def test_large_foreground_that_hardly_gets_coarser_stays_one_stage(scans: Make) -> None:
    found = scans((20, (1, 1, 1), (208, 208, 208)))
    plan = make_plan(found, PlanOptions(gpu_memory_gb=8))
    assert _names(plan) == ["whole"]


@pytest.mark.parametrize(
    ("cascade", "expected"),
    [
        ("none", ["whole"]),
        ("locate", ["locate", "fine"]),
        ("lowres", ["lowres", "fullres"]),
    ],
)
def test_cascade_can_be_asked_for(cascade: str, expected: list[str], abdomens: Make) -> None:
    plan = make_plan(abdomens(), PlanOptions(cascade=cascade))  # type: ignore[arg-type]
    assert _names(plan) == expected
    assert f"--cascade {cascade} was asked for" in plan.reasons["configurations"]


def test_impossible_cascades_are_refused(
    case: Callable, kidney: Callable, fingerprint: Make, scans: Make
) -> None:
    small = _phantoms(case, kidney, fingerprint)
    with pytest.raises(PlanError, match="lowres is not possible: the full-resolution patch sees"):
        make_plan(small, PlanOptions(cascade="lowres"))
    slices = scans((5, (5, 1, 1), (1, 128, 128)))
    with pytest.raises(PlanError, match=r"locate is not possible: .* single slice"):
        make_plan(slices, PlanOptions(cascade="locate"))


def test_single_slices_get_a_flat_network(scans: Make) -> None:
    stage = make_plan(scans((5, (5, 1, 1), (1, 128, 128))), PlanOptions()).stage("whole")
    assert stage.patch_size == (1, 128, 128)
    assert stage.spacing == (None, 1, 1)
    assert stage.network.arguments["dims"] == 2


def test_memory_grows_the_patch_and_then_the_batch(abdomens: Make) -> None:
    stages = [
        make_plan(abdomens(), PlanOptions(gpu_memory_gb=memory)).stage("fine")
        for memory in (4, 8, 15, 24, 80)
    ]
    voxels = [prod(stage.patch_size) for stage in stages]
    assert voxels == sorted(voxels)
    # 160^3 covers the region of 150 x 130 x 130, so what is left goes to the batch:
    # at most 25 % of 20 cases x 2 regions of 150 x 130 x 130 voxels, which is 6 patches
    assert stages[-1].patch_size == stages[-2].patch_size == (160, 160, 160)
    assert [stage.batch_size for stage in stages] == [2, 2, 2, 3, 6]


@pytest.mark.parametrize("memory", [1, 2, 4, 8, 12, 24, 40])
def test_every_stage_fits_its_target(memory: float, abdomens: Make) -> None:
    for stage in make_plan(abdomens(), PlanOptions(gpu_memory_gb=memory)).stages:
        assert stage.forecast is not None
        assert stage.forecast.training_memory_gb <= usable_gb(memory) + 1e-3


def test_target_too_small_for_the_network_is_an_error(abdomens: Make) -> None:
    with pytest.raises(PlanError, match="raise gpu_memory or lower base_features"):
        make_plan(abdomens(), PlanOptions(gpu_memory_gb=0.01))


def test_large_cards_get_a_residual_network(abdomens: Make) -> None:
    plan = make_plan(abdomens(), PlanOptions(gpu_memory_gb=24))
    assert plan.stage("fine").network.arguments["kind"] == "residual"
    assert plan.stage("locate").network.arguments["kind"] == "plain"


def test_spacing_asked_for_is_kept_but_judged(abdomens: Make) -> None:
    found = abdomens(thickness_mm={"kidney": 40.0, "artery": 2.0})
    plan = make_plan(found, PlanOptions(spacing=(3, 1.5, 1.5)))
    assert plan.stage("fine").spacing == (3, 1.5, 1.5)
    (warning,) = plan.warnings
    assert warning.startswith("artery is typically 2 mm thick but the target spacing is z 3 mm, y")


def test_coarse_sagittal_axis_goes_first_and_comes_back(scans: Make) -> None:
    plan = make_plan(scans((20, (0.8, 0.8, 4), (512, 512, 80))), PlanOptions(cascade="none"))
    stage: StagePlan = plan.stage("whole")
    assert plan.axes == ("x", "z", "y")
    assert stage.spacing == pytest.approx((4, 0.8, 0.8))
    assert stage.median_shape == (80, 512, 512)
