"""DPA-DenseBiasNet: renal arteries."""

from __future__ import annotations

from papers.paper import Arm, Paper

# the paper's augmentation, sampling and optimizer, so that rows differ in network and loss alone
ARTERY_TRAINING = (
    "optimizer=adam",
    "weight_decay=0",
    "batch_size=1",
    "augmentation.rotation_probability=1",
    "augmentation.rotation_degrees=10",
    "augmentation.scaling_probability=0",
    "augmentation.intensity=false",
)
DENSEBIASNET = Paper(
    title="DPA-DenseBiasNet: renal artery",
    number=931,
    phantom={
        "task": "artery",
        "cases": 40,
        "unlabelled_cases": 40,
        "seed": 11,
        "size": (64, 80, 112),
        "spacing": (2.0, 2.0, 2.0),
    },
    plan={"cascade": "none", "gpu_memory_gb": 0.3, "base_features": 16},
    configurations=None,
    arms=(
        Arm(
            name="U-Net (CE)",
            key="unet_ce",
            trainer="UNet",
            settings=(*ARTERY_TRAINING, "loss.name=ce"),
            paper={"dice": ".801", "centerline_mm": "2.070", "average_hausdorff_mm": "1.578"}
            | {"hausdorff_mm": "32.24"},
        ),
        Arm(
            name="DenseBiasNet (CE)",
            key="dense_ce",
            trainer="DenseBiasNet",
            settings=(*ARTERY_TRAINING, "priors=false", "loss.name=ce"),
            paper={"dice": ".869", "centerline_mm": "1.428", "average_hausdorff_mm": "1.038"}
            | {"hausdorff_mm": "28.26"},
        ),
        Arm(
            name="DenseBiasNet (CE+HRA)",
            key="dense_hra",
            trainer="DenseBiasNet",
            settings=(*ARTERY_TRAINING, "priors=false"),
            paper={"dice": ".872", "centerline_mm": "1.440", "average_hausdorff_mm": "1.006"}
            | {"hausdorff_mm": "27.27", "dice 20%": ".757", "dice 10%": ".630"},
        ),
        Arm(
            name="DPA-DenseBiasNet (CE+HRA)",
            key="dpa_hra",
            trainer="DenseBiasNet",
            settings=(*ARTERY_TRAINING, "priors=true"),
            small=(
                "autoencoder.epochs=15",
                "autoencoder.iterations=100",
                "autoencoder.learning_rate=0.001",
            ),
            paper={"dice": ".884", "centerline_mm": "1.385", "average_hausdorff_mm": "0.940"}
            | {"hausdorff_mm": "25.44", "dice 20%": ".785", "dice 10%": ".701"},
        ),
    ),
    shares=(1.0, 0.1),
    small=(
        "epochs=10",
        "iterations=100",
        "validation_iterations=0",
        "augmentation.rotation_probability=0",  # too short to learn from turned, blurred vessels
        "patch_size=24,32,32",
        "foreground_share=1",
        "schedule=poly",
        "learning_rate=0.001",
    ),
    columns=(
        ("artery", "dice", "Dice"),
        ("artery", "centerline_mm", "MCD (mm)"),
        ("artery", "average_hausdorff_mm", "MSD (mm)"),
        ("artery", "hausdorff_mm", "HD (mm)"),
    ),
)
