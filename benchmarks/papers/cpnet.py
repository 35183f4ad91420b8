"""CPNet: cortex and medulla from four labelled scans."""

from __future__ import annotations

from papers.paper import Arm, Paper

# the same optimizer and patches a step for all rows: an episode has two supports and a query
U_NET = ("channels=0", "loss.name=ce", "weight_decay=0.0005", "foreground_share=1")
EPISODES = ("supervised_epochs=4", "epochs=6", "rounds=2")
CPNET = Paper(
    title="CPNet: renal cortex and medulla",
    number=933,
    phantom={
        "task": "compartments",
        "cases": 40,
        "unlabelled_cases": 26,
        "seed": 13,
        "size": (64, 80, 112),
        "spacing": (2.0, 2.0, 2.0),
    },
    plan={"cascade": "none", "gpu_memory_gb": 0.3, "base_features": 16},
    configurations=None,
    arms=(
        Arm(
            name="U-Net (CE)",
            key="unet_cta",
            trainer="UNet",
            settings=U_NET,
            small=("batch_size=3", "epochs=10"),
            paper={"medulla dice": ".727", "cortex dice": ".022"},
        ),
        Arm(
            name="PANet",
            key="panet",
            trainer="PANet",
            small=EPISODES,
            paper={"medulla dice": ".559", "cortex dice": ".567"},
        ),
        Arm(
            name="CPNet with BWSM alone (fdfe=false)",
            key="cpnet_bwsm",
            trainer="CPNet",
            settings=("fdfe=false", "bwsm=true"),
            small=EPISODES,
            paper={"medulla dice": ".581", "cortex dice": ".596"},
        ),
        Arm(
            name="CPNet with FDFE alone (bwsm=false)",
            key="cpnet_fdfe",
            trainer="CPNet",
            settings=("bwsm=false",),
            small=EPISODES,
            paper={"medulla dice": ".765", "cortex dice": ".770"},
        ),
        Arm(
            name="CPNet",
            key="cpnet",
            trainer="CPNet",
            settings=("bwsm=true",),
            small=EPISODES,
            paper={"medulla dice": ".784", "cortex dice": ".791"},
        ),
    ),
    shares=(0.125,),  # four of 32 labelled patients
    small=(
        "iterations=30",
        "validation_iterations=0",
        "patch_size=32,40,40",
        "optimizer=adam",
        "learning_rate=0.001",
        "schedule=poly",
        "augmentation.rotation_probability=0",
        "augmentation.scaling_probability=0",
    ),
    columns=(
        ("medulla", "dice", "medulla Dice"),
        ("cortex", "dice", "cortex Dice"),
        ("medulla", "average_hausdorff_mm", "medulla AHD (mm)"),
        ("cortex", "average_hausdorff_mm", "cortex AHD (mm)"),
    ),
)
