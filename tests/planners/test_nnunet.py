"""The nnU-Net presets against what nnU-Net 2.8.1 itself plans for the same fingerprints."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from renalplan.errors import PlanError
from renalplan.plan import Plan
from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.planner import PlanOptions, make_plan

Scans = Callable[..., Fingerprint]

DATA = {
    "A": (((100, (1, 0.78125, 0.78125), (320, 512, 512)),), 4),
    "B": (((90, (5, 0.75, 0.75), (60, 512, 512)), (10, (2.5, 0.75, 0.75), (120, 512, 512))), 4),
    "C": (((60, (0.8, 0.8, 0.8), (160, 160, 160)),), 5),
    "D": (((200, (0.625, 0.7, 0.7), (700, 512, 512)),), 6),
    "E": (((5, (1, 1, 1), (64, 64, 64)),), 2),
    "F": (((40, (3, 0.8, 0.8), (100, 512, 512)), (10, (1, 0.8, 0.8), (300, 512, 512))), 4),
    "G": (((50, (0.8, 0.8, 4), (512, 512, 80)),), 4),
}
SPACING = {
    "A": (1, 0.78125, 0.78125),
    "B": (4.75, 0.75, 0.75),
    "C": (0.8, 0.8, 0.8),
    "D": (0.7, 0.625, 0.7),
    "E": (1, 1, 1),
    "F": (1, 0.8, 0.8),
    "G": (4, 0.8, 0.8),
}
AXES = {"D": "yzx", "G": "xzy"}  # the others keep zyx
PLANNERS = {"P": "nnunet", "M": "resenc_m", "L": "resenc_l", "X": "resenc_xl"}

# data planners | 3d_fullres patch@batch stages | 3d_lowres patch@batch spacing | 2d patch@batch
GOLDEN = """
A PM | 96,160,160@2 6 | 96,160,160@2 2.0938,1.6358,1.6358 | 512,512@12
A L  | 128,224,224@2 6 | 128,256,224@2 1.4258,1.1139,1.1139 | 512,512@35
A X  | 192,256,256@2 7 | none | 512,512@52
B P  | 28,256,256@2 7 | 40,224,192@2 4.75,1.1685,1.1685 | 512,512@12
B M  | 28,224,224@2 6 | 40,224,192@2 4.75,1.2035,1.2035 | 512,512@12
B L  | 40,320,320@2 7 | none | 512,512@35
B X  | 48,448,384@2 7 | none | 512,512@52
C P  | 128,128,128@2 6 | none | 160,160@126
C M  | 128,128,128@2 6 | none | 160,160@128
C L  | 160,160,160@4 6 | none | 160,160@361
C X  | 160,160,160@7 6 | none | 160,160@532
D P  | 128,160,112@2 6 | 128,160,112@2 1.9123,1.7074,1.9123 | 768,512@8
D M  | 128,160,112@2 6 | 128,160,112@2 1.9123,1.7074,1.9123 | 576,448@13
D L  | 160,256,160@2 6 | 160,256,160@2 1.3413,1.1976,1.3413 | 768,512@23
D X  | 224,288,192@2 6 | 224,288,192@2 1.0906,0.9737,1.0906 | 768,512@34
E P  | 64,64,64@2 5 | none | 64,64@16
E MLX | 64,64,64@5 5 | none | 64,64@320
F PM | 96,160,160@2 6 | 96,160,160@2 2.0328,1.6262,1.6262 | 512,512@12
F L  | 128,256,224@2 6 | 128,256,224@2 1.4258,1.1406,1.1406 | 512,512@35
F X  | 160,320,256@2 7 | none | 512,512@52
G P  | 32,224,224@2 6 | 56,192,192@2 4,1.2838,1.2838 | 512,512@12
G M  | 32,224,192@2 6 | 48,192,192@2 4,1.4028,1.4028 | 512,512@12
G L  | 48,320,256@2 7 | none | 512,512@35
G X  | 56,384,384@2 7 | none | 512,512@52
"""


def _rows() -> list[tuple[str, str, str, str, str]]:
    rows = []
    for line in GOLDEN.strip().splitlines():
        head, full, low, flat = (part.strip() for part in line.split("|"))
        data, planners = head.split()
        rows += [(data, PLANNERS[letter], full, low, flat) for letter in planners]
    return rows


def _text(plan: Plan, stage: str) -> str:
    """`patch @ batch`; a 2-D patch without its first 1."""
    found = plan.stage(stage)
    patch = found.patch_size[1:] if stage == "2d" else found.patch_size
    return f"{','.join(map(str, patch))}@{found.batch_size}"


def _stages(plan: Plan, stage: str) -> int:
    return len(plan.stage(stage).network.arguments["features"])


@pytest.mark.parametrize(("data", "planner", "full", "low", "flat"), _rows())
def test_plan_is_nnunets(
    data: str, planner: str, full: str, low: str, flat: str, scans: Scans
) -> None:
    groups, heads = DATA[data]
    plan = make_plan(scans(*groups, heads=heads), PlanOptions(planner=planner))
    assert "".join(plan.axes) == AXES.get(data, "zyx")
    fullres = plan.stage("3d_fullres")
    assert fullres.spacing == pytest.approx(SPACING[data], abs=1e-9)
    assert f"{_text(plan, '3d_fullres')} {_stages(plan, '3d_fullres')}" == full
    assert _text(plan, "2d") == flat
    assert plan.stage("2d").spacing == (None, *fullres.spacing[1:])
    assert plan.default_configuration == "3d_fullres"
    if low == "none":
        assert list(plan.configurations) == ["2d", "3d_fullres"]
        assert not fullres.batch_dice
        return
    patch, spacing = low.split()
    assert _text(plan, "3d_lowres") == patch
    assert plan.stage("3d_lowres").spacing == pytest.approx(
        [float(s) for s in spacing.split(",")], abs=1.01e-4
    )
    assert plan.configurations["3d_cascade_fullres"] == ("3d_lowres", "3d_cascade_fullres")
    cascade = plan.stage("3d_cascade_fullres")
    assert (cascade.patch_size, cascade.batch_size) == (fullres.patch_size, fullres.batch_size)
    assert cascade.network == fullres.network
    assert cascade.previous == "3d_lowres"
    assert cascade.previous_as_channels
    assert fullres.batch_dice
    assert not plan.stage("3d_lowres").batch_dice


def test_strides_and_kernels_of_thick_slices(scans: Scans) -> None:
    groups, heads = DATA["B"]
    plan = make_plan(scans(*groups, heads=heads), PlanOptions(planner="nnunet"))
    network = plan.stage("3d_fullres").network.arguments
    joined = ["".join(map(str, stride)) for stride in network["strides"]]
    assert joined == ["111", "122", "122", "222", "222", "122", "122"]
    assert [kernel[0] for kernel in network["kernels"]] == [1, 1, 3, 3, 3, 3, 3]
    assert network["features"] == [32, 64, 128, 256, 320, 320, 320]
    assert "in_channels" not in network
    assert "heads" not in network


def test_slices_get_a_flat_network(scans: Scans) -> None:
    groups, heads = DATA["A"]
    stage = make_plan(scans(*groups, heads=heads), PlanOptions(planner="nnunet")).stage("2d")
    network = stage.network.arguments
    assert stage.patch_size == (1, 512, 512)
    assert network["dims"] == 2
    assert network["features"] == [32, 64, 128, 256, 512, 512, 512, 512]
    assert {kernel[0] for kernel in network["kernels"]} == {1}
    assert stage.batch_dice


def test_residual_preset_has_blocks(scans: Scans) -> None:
    groups, heads = DATA["E"]
    plan = make_plan(scans(*groups, heads=heads), PlanOptions(planner="resenc_l"))
    network = plan.stage("3d_fullres").network.arguments
    assert network["kind"] == "residual"
    assert network["blocks"] == [1, 3, 4, 6, 6]
    assert network["convs_per_stage"] == 1


def test_single_slices_have_no_3d_configuration(scans: Scans) -> None:
    plan = make_plan(scans((10, (5, 1, 1), (1, 128, 128))), PlanOptions(planner="nnunet"))
    assert plan.configurations == {"2d": ("2d",)}
    assert plan.default_configuration == "2d"


def test_training_cases_cap_the_batch(scans: Scans) -> None:
    # 64^3 voxels x 50 cases x 5 % / 64^2 voxels a slice = 160, below what memory holds
    few = make_plan(scans(*DATA["E"][0]), PlanOptions(planner="nnunet"), training_cases=50)
    assert few.stage("2d").batch_size == 160


def test_cascade_asked_for_becomes_the_default(scans: Scans) -> None:
    groups, heads = DATA["A"]
    options = PlanOptions(planner="nnunet", cascade="lowres")
    plan = make_plan(scans(*groups, heads=heads), options)
    assert plan.default_configuration == "3d_cascade_fullres"


def test_cascade_declined_is_left_out(scans: Scans) -> None:
    groups, heads = DATA["A"]
    plan = make_plan(scans(*groups, heads=heads), PlanOptions(planner="nnunet", cascade="none"))
    assert [stage.name for stage in plan.stages] == ["2d", "3d_fullres"]
    assert plan.reasons["configurations"] == "no cascade was asked for."


def test_cascade_that_nnunet_would_not_make_is_refused(scans: Scans) -> None:
    options = PlanOptions(planner="nnunet", cascade="lowres")
    with pytest.raises(PlanError, match="lowres is not possible: the full-resolution patch sees"):
        make_plan(scans(*DATA["E"][0]), options)


def test_regions_are_the_renal_planners(scans: Scans) -> None:
    options = PlanOptions(planner="resenc_l", cascade="locate")
    with pytest.raises(PlanError, match="--planner renal"):
        make_plan(scans(*DATA["E"][0]), options)
