"""BiSC-UNet: kidney and tumor."""

from __future__ import annotations

from papers.paper import Arm, Paper

BISC = Paper(
    title="BiSC-UNet: kidney and tumor",
    number=932,
    phantom={
        "task": "kidney_tumor",
        "cases": 40,
        "seed": 12,
        "size": (64, 112, 144),
        "spacing": (3.0, 2.5, 2.5),
    },
    plan={"planner": "bisc", "gpu_memory_gb": 0.4, "base_features": 8},
    configurations=["rough_fine", "single"],
    arms=(
        Arm(
            name="single SC-UNet (BCE)",
            key="single_bce",
            trainer="SCUNet",
            configuration="single",
        ),
        Arm(
            name="BiSC-UNet (CE)",
            key="bisc_ce",
            trainer="BiSCUNet",
            settings=("loss.name=ce",),
            paper={"kidney dice": ".942", "tumor dice": ".736"},
        ),
        Arm(
            name="BiSC-UNet (BCE)",
            key="bisc_bce",
            trainer="BiSCUNet",
            paper={"kidney dice": ".954", "tumor dice": ".741"},
        ),
    ),
    shares=(1.0,),
    small=(
        "epochs=8",
        "iterations=50",
        "validation_iterations=0",
        "batch_size=1",
        "foreground_share=0.67",
        "schedule=poly",
        "learning_rate=0.003",
    ),
    columns=(
        ("kidney", "dice", "kidney Dice"),
        ("tumor", "dice", "tumor Dice"),
        ("kidney", "average_hausdorff_mm", "kidney MSD (mm)"),
        ("tumor", "average_hausdorff_mm", "tumor MSD (mm)"),
    ),
)
