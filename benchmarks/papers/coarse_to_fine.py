"""The coarse-to-fine system: with and without correction, for one kidney and for two."""

from __future__ import annotations

from papers.paper import Arm, Paper

COARSE_TO_FINE = Paper(
    title="Coarse-to-fine: kidney and tumor",
    number=935,
    phantom={
        "task": "kidney_tumor",
        "cases": 50,
        "seed": 14,
        "size": (64, 112, 144),
        "spacing": (3.0, 2.5, 2.5),
        "single_kidney_share": 0.4,
    },
    plan={"planner": "coarse_to_fine", "gpu_memory_gb": 0.4, "base_features": 8},
    configurations=None,
    arms=(
        Arm(
            name="without correction",
            key="c2f_plain",
            trainer="CoarseToFine",
            settings=("correction=false",),
        ),
        Arm(
            name="with abnormality correction",
            key="c2f_corrected",
            trainer="CoarseToFine",
            # the same networks and one more, so that the rows differ in the correction alone
            begins_as=("c2f_plain", ("coarse", "fine", "tumor_3d", "tumor_2d")),
        ),
    ),
    shares=(1.0,),
    small=(
        "epochs=6",
        "iterations=50",
        "validation_iterations=0",
        "batch_size=8",
        "widths=16,32,64,128",
        "coarse_pixels=64",
        "optimizer=adamw",
        "learning_rate=0.002",
        # cross-entropy alone, the paper's, has not begun to predict tumors after so few steps
        "tumor_3d.loss.name=dice_ce",
        "tumor_3d.epochs=6",
        "tumor_3d.iterations=50",
        "tumor_3d.validation_iterations=0",
        "tumor_3d.batch_size=3",
        "tumor_3d.widths=16,32,64",
        "tumor_3d.optimizer=adamw",
        "tumor_3d.learning_rate=0.002",
    ),
    columns=(
        ("kidney", "dice", "kidney Dice"),
        ("tumor", "dice", "tumor Dice"),
        ("kidney", "average_hausdorff_mm", "kidney MSD (mm)"),
        ("tumor", "average_hausdorff_mm", "tumor MSD (mm)"),
    ),
    groups=("kidney_count", {1: "patients with one kidney", 2: "patients with two kidneys"}),
)
