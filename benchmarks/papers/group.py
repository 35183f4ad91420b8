"""Group training: tumors from boxes; the table with one subset of rows for each margin, and the masks' own."""

from __future__ import annotations

from papers.masks import mask_table
from papers.paper import Arm, Paper

GROUP = "GroupTraining"
SDI = "renalplan.trainers.box_baselines:SDI"
SIZE = "renalplan.trainers.box_baselines:SizeConstrained"
STAGE_2 = ("boxes", "pseudo_masks", "group_1", "group_2", "group_3", "fusion")
# its distances have no stated unit, so they are left out;
# margin -> the paper's Table 1: k=0 WCE, k=3 WCE, k=3 VWCE, and + 3D MC
TABLE_1 = {0: (".788", ".822", ".834", ".834"), 5: (".733", ".784", ".820", ".826")}
# the paper's pixels are 0.8 mm: five of them are two of the phantoms' voxels of 2.5 mm
SMALL_MARGIN = {0: 0, 5: 2}
TABLE_2 = {0: (None, None), 5: (".766", ".705")}  # SDI, Constrained-CNN


def _rows(d: int) -> tuple[Arm, ...]:
    """All rows of one margin; what rows share is trained once."""
    margin, all_pieces = f"box_margin={d}", "largest_component=false"
    k0, wce, vwce, largest = TABLE_1[d]
    sdi, size = TABLE_2[d]

    def paper(dice: str | None) -> dict[str, str]:
        return {"dice": dice} if dice else {}

    def row(name: str, key: str, trainer: str, *settings: str, small: tuple[str, ...] = (),
            **values: object) -> Arm:  # fmt: skip
        return Arm(
            name=f"d={d}: {name}", key=f"group_d{d}_{key}", trainer=trainer,
            settings=(margin, *settings), small=(f"box_margin={SMALL_MARGIN[d]}", *small),
            **values,  # type: ignore[arg-type]
        )  # fmt: skip

    final = f"group_d{d}_vwce"
    return (
        row("inscribed ellipsoid, k=0", "ellipsoid", GROUP, all_pieces, "k=0", "pseudo.method=ellipsoid"),
        row("GMM in the box, k=0", "gmm", GROUP, all_pieces, "k=0", "pseudo.method=gmm"),
        row("k=0 (WCE)", "k0", GROUP, all_pieces, "k=0", paper=paper(k0)),
        row("k=3 (VWCE)", "vwce", GROUP, all_pieces, paper=paper(vwce), small=("group_epochs=4",)),
        row(
            "k=3 (WCE)", "wce", GROUP, all_pieces, "weighting=classes", paper=paper(wce),
            small=("group_epochs=4",), begins_as=(final, STAGE_2),
        ),
        row(
            "k=3 (VWCE) + largest component", "largest", GROUP, paper=paper(largest),
            small=("group_epochs=4",), begins_as=(final, (*STAGE_2, "whole")),
        ),
        row("SDI, 3-D", "sdi", SDI, all_pieces, paper=paper(sdi), small=("round_epochs=4",)),
        row("size constraint", "size", SIZE, all_pieces, paper=paper(size)),
    )  # fmt: skip


SUPERVISED = (
    "optimizer=adam",
    "learning_rate=0.001",
    "schedule=exponential",
    "weight_decay=0",
    "foreground_share=0.5",
    "loss.name=wce",
    "augmentation.rotation_probability=0",
    "augmentation.scaling_probability=0",
    "augmentation.intensity=false",
)
GROUP_TRAINING = Paper(
    title="Group training: tumor from boxes",
    number=934,
    phantom={
        "task": "boxes",
        "cases": 40,
        "seed": 13,
        "size": (64, 96, 128),
        "spacing": (2.5, 2.5, 2.5),
    },
    plan={
        "cascade": "none",
        "gpu_memory_gb": 0.4,
        "base_features": 8,
        "window": (-200.0, 500.0),
    },
    configurations=None,
    arms=(
        *_rows(0),
        *_rows(5),
        Arm(
            name="fully supervised (WCE)",
            key="group_supervised",
            trainer="UNet",
            settings=SUPERVISED,
            paper={"dice": ".849"},
        ),
    ),
    shares=(1.0,),
    small=(
        # 400 steps at the paper's rate, half of the patches without tumor, found next to nothing
        "epochs=10",
        "iterations=100",
        "validation_iterations=0",
        "batch_size=2",
        "patch_size=32,48,48",
        "foreground_share=1",
        "schedule=poly",
        "learning_rate=0.003",
    ),
    columns=(
        ("tumor", "dice", "Dice"),
        ("tumor", "hausdorff_mm", "HD (mm)"),
        ("tumor", "average_hausdorff_mm", "ASD (mm)"),
    ),
    after=mask_table,
)
