"""A renalplan U-Net as a model folder of nnU-Net's: the same weights, spacing, patch and intensities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from measuring import BenchmarkError
from torch import Tensor

from renalplan.model_folder import ModelFolder

CONFIGURATION = "3d_fullres"
RESAMPLING = "resample_data_or_seg_to_shape"


def nnunet_prediction(programs: Path, model: Path, *options: str) -> tuple[str, ...]:
    """nnU-Net's command for fold 0 of a model on the CPU; -i and -o are to be added."""
    return (
        str(programs / "nnUNetv2_predict_from_modelfolder"), "-m", str(model), "-f", "0", "-device", "cpu",
        "-npp", "1", "-nps", "1", "--disable_progress_bar", *options,
    )  # fmt: skip


def write_nnunet_model(model: ModelFolder, fold: str, target: Path) -> None:
    """Write plans.json, dataset.json and fold_0/checkpoint_final.pth.

    Raises:
        BenchmarkError: the model is not one plain U-Net on whole volumes of one CT channel.
    """
    stages = list(model.record.networks)
    plan = model.plan
    if len(stages) != 1 or len(plan.channels) != 1 or plan.channels[0].normalisation != "ct":
        raise BenchmarkError(f"{model.path} is not one network on one CT channel")
    stage = plan.stage(stages[0])
    network = model.record.networks[stages[0]].arguments
    if network.get("kind") != "plain" or None in stage.spacing or plan.order != (0, 1, 2):
        raise BenchmarkError(f"{model.path} is not a plain U-Net at a fixed spacing")
    target.mkdir(parents=True, exist_ok=True)
    patches = model.record.segmenter.arguments.get("patch_sizes", {})
    plans = _plans(model, stage.spacing, patches.get(stage.name, stage.patch_size), network)
    (target / "plans.json").write_text(json.dumps(plans, indent=2))
    description = {
        "channel_names": {"0": "CT"},
        "labels": {name: values[0] for name, values in zip(model.scheme.names, model.scheme.values, strict=True)},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }  # fmt: skip
    (target / "dataset.json").write_text(json.dumps(description, indent=2))
    weights = model.load_network(stages[0], fold).state_dict()
    (target / "fold_0").mkdir(exist_ok=True)
    checkpoint = {
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "network_weights": nnunet_weights(weights),
    }
    torch.save(checkpoint, target / "fold_0" / "checkpoint_final.pth")


def nnunet_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names -> PlainConvUNet's, each of which it has two or four times."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        parts = name.split(".")
        if parts[0] == "upsamplers":
            found[".".join(["decoder.transpconvs", *parts[1:]])] = value
        elif parts[0] == "outputs":
            found[".".join(["decoder.seg_layers", *parts[1:]])] = value
        else:
            stage, conv, layer, kind = parts[1:]
            before = f"{parts[0]}.stages.{stage}"
            block = f"{before}.0.convs" if parts[0] == "encoder" else f"{before}.convs"
            for prefix in ("", "decoder.") if parts[0] == "encoder" else ("",):
                for inner in (("conv", "norm")[int(layer)], f"all_modules.{layer}"):
                    found[f"{prefix}{block}.{conv}.{inner}.{kind}"] = value
    return found


def nnunet_architecture(network: dict[str, Any]) -> dict[str, Any]:
    """Our plain U-Net's arguments -> what a plans file of nnU-Net's says of its network."""
    count = len(network["features"])
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": count,
            "features_per_stage": network["features"],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": network["kernels"],
            "strides": network["strides"],
            "n_conv_per_stage": [network["convs_per_stage"]] * count,
            "n_conv_per_stage_decoder": [network["convs_per_stage"]] * (count - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _plans(
    model: ModelFolder, spacing: tuple, patch: tuple[int, ...], network: dict[str, Any]
) -> dict[str, Any]:
    intensities = model.plan.channels[0].intensities
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": list(patch),
        "spacing": list(spacing),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_probabilities": RESAMPLING,
        "resampling_fn_data_kwargs": _resampling(is_seg=False, order=3),
        "resampling_fn_seg_kwargs": _resampling(is_seg=True, order=1),
        "resampling_fn_probabilities_kwargs": _resampling(is_seg=False, order=1),
        "architecture": nnunet_architecture(network),
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset901_Benchmark",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(spacing),
        "original_median_shape_after_transp": list(patch),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "mean": intensities.mean,
                "std": intensities.std,
                "min": intensities.minimum,
                "max": intensities.maximum,
                "median": intensities.median,
                "percentile_00_5": intensities.percentile_00_5,
                "percentile_99_5": intensities.percentile_99_5,
            }
        },
    }


def _resampling(*, is_seg: bool, order: int) -> dict[str, Any]:
    return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}
