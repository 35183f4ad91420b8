"""What the papers compared, and how each row is run here: data only, for `paper_tables.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row: a trainer with settings, and what the paper reports for it.

    Attributes:
        name: Of the row, as the paper has it.
        key: Of the model folder.
        trainer: Trainer name.
        settings: `--set` of every schedule.
        small: More of them in the short schedule for phantoms.
        configuration: Of the plan; None is its default.
        paper: Column -> the paper's number, where it gives one.
    """

    name: str
    key: str
    trainer: str
    settings: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    configuration: str | None = None
    paper: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One paper's comparison.

    Attributes:
        title: Of the table.
        phantom: Arguments of `make_phantom_dataset`, for the data made here.
        plan: Arguments of `PlanOptions`, for that data.
        configurations: Of the plan that must be preprocessed; None is the default one.
        arms: The rows.
        shares: Shares of the labelled training patients: every arm is run with each.
        small: Settings of every row in the short schedule for phantoms, on top of the arm's own.
        columns: (structure, score, heading) to show.
    """

    title: str
    phantom: dict[str, Any]
    plan: dict[str, Any]
    configurations: list[str] | None
    arms: tuple[Arm, ...]
    shares: tuple[float, ...]
    small: tuple[str, ...]
    columns: tuple[tuple[str, str, str], ...]


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

BISC = Paper(
    title="BiSC-UNet: kidney and tumor",
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

PAPERS = {"densebiasnet": DENSEBIASNET, "bisc": BISC}
