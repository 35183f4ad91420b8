"""Peak memory of prediction against scan size and number of labels, and the forecast beside it.

    python benchmarks/memory.py --slices 100 400 800 --labels 2 6 30 --max_ram none 2G
    python benchmarks/memory.py --slices 800 --labels 6 --max_ram none --nnunet nnunet_venv/bin

Scans are 512 x 512 in plane (0.8 mm, slices of 1 mm), the plan's spacing is 1.5 x 0.8 x 0.8 mm: no
help from a coarse grid. The network is a small U-Net with random weights, since what a network takes does
not depend on the scan; `--features 32` is nnU-Net's size; windows do not overlap (`--step 1`), which saves
time and no memory. Each line is a process of its own; input and output are what the scan and its label
map take as arrays. With --nnunet a line follows for nnU-Net with the same network, windows and scan, all its
processes together (PSS).
"""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from measuring import nnunet_environment, run_command
from nnunet_model import nnunet_prediction, write_nnunet_model
from safetensors.torch import save_file

from renalplan.dataset import DatasetDescription
from renalplan.errors import RenalplanError
from renalplan.files import write_json
from renalplan.inference.options import InferenceOptions
from renalplan.inference.predictor import Predictor
from renalplan.inference.room import parse_size
from renalplan.inference.scans import find_scans
from renalplan.model_folder import (
    FINISHED,
    Finished,
    ModelFolder,
    SegmenterSpec,
    TrainerRecord,
    build_network,
)
from renalplan.plan import ChannelPlan, Intensities, NetworkSpec, Plan, StagePlan

HU = Intensities(
    mean=50, std=80, minimum=-1000, maximum=2000, median=40, percentile_00_5=-100,
    percentile_99_5=300,
)  # fmt: skip
GIB = 1 << 30


def main() -> None:
    """Measure every combination in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, nargs="+", default=[100, 400, 800])
    parser.add_argument("--labels", type=int, nargs="+", default=[2, 6, 30])
    parser.add_argument("--max_ram", nargs="+", default=["none", "3G"])
    parser.add_argument("--patch", type=int, nargs=3, default=[48, 160, 160])
    parser.add_argument("--features", type=int, default=8, help="of the first stage; doubles")
    parser.add_argument("--step", type=float, default=1.0)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--nnunet", type=Path, help="bin folder of nnU-Net's environment")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        slices, labels, limit = given.one
        measure(int(slices), int(labels), limit, given)
        return
    print("| slices | labels | --max_ram | input | output | forecast | peak | beyond both | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for limit in given.max_ram:
        for slices in given.slices:
            for labels in given.labels:
                command = [sys.executable, __file__, *sys.argv[1:], "--one"]
                found = subprocess.run(
                    [*command, str(slices), str(labels), limit],
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                print(found.stdout.strip() or found.stderr.strip()[-300:], flush=True)
    if given.nnunet:
        for slices in given.slices:
            for labels in given.labels:
                print(measure_nnunet(slices, labels, given), flush=True)


def measure_nnunet(slices: int, labels: int, given: argparse.Namespace) -> str:
    """nnU-Net's line for one scan."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_nnunet_model(make_model(folder / "model", labels, given), "0", folder / "nnunet")
        for part in ("in", "out"):
            (folder / part).mkdir()
        write_scan(str(folder / "in" / "scan_0000.nii.gz"), slices)
        command = nnunet_prediction(
            given.nnunet, folder / "nnunet", "-i", str(folder / "in"), "-o", str(folder / "out"),
            "-step_size", str(given.step), "--disable_tta",
        )  # fmt: skip
        cost = run_command(command, nnunet_environment(folder), folder / "log.txt")
    return line(slices, labels, "nnU-Net", "-", cost.peak_bytes, cost.wall_s)


def line(
    slices: int, labels: int, limit: str, forecast: str, peak_bytes: int, seconds: float
) -> str:
    """One of the table."""
    voxels = slices * 512 * 512
    size, out, peak = 4 * voxels / GIB, voxels / GIB, peak_bytes / GIB
    return (
        f"| {slices} | {labels} | {limit} | {size:.2f} | {out:.2f} | {forecast} | {peak:.2f} GiB "
        f"| {peak - size - out:.2f} | {seconds:.0f} |"
    )


def measure(slices: int, labels: int, limit: str, given: argparse.Namespace) -> None:
    """Predict one scan in this process and print its line."""
    forecasts: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            forecasts.extend(re.findall(r"about ([\d.]+ [GM]iB) of memory", record.getMessage()))

    logger = logging.getLogger("renalplan")
    logger.setLevel(logging.INFO)
    logger.addHandler(Keep())
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model", labels, given)
        scan = Path(folder) / "scan.nii"
        subprocess.run(
            [sys.executable, "-c", f"import memory; memory.write_scan({str(scan)!r}, {slices})"],
            cwd=Path(__file__).parent, check=True,
        )  # fmt: skip
        options = InferenceOptions(
            device="cpu",
            engine=given.engine,
            step=given.step,
            max_ram=None if limit == "none" else parse_size(limit, "--max_ram"),
            scratch_folder=Path(folder),
        )
        start = time.monotonic()
        refused = ""
        try:
            report = Predictor.from_model(model, None, options).predict_folder(
                list(find_scans(scan, ("CT",))), Path(folder) / "out", workers=0
            )
            refused = "; ".join(report.failed.values())
        except RenalplanError as problem:
            refused = str(problem)
        seconds = time.monotonic() - start
    peak = int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) * 1024
    found = line(slices, labels, limit, ", ".join(forecasts) or "-", peak, seconds)
    print(found + (f" refused: {refused}" if refused else ""))


def make_model(path: Path, labels: int, given: argparse.Namespace) -> ModelFolder:
    """A model of one stage with a random network."""
    arguments = {
        "features": [given.features * 2**i for i in range(4)],
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
        "kernels": [[3, 3, 3]] * 4,
        "kind": "plain", "convs_per_stage": 2, "deep_supervision": False, "dims": 3,
    }  # fmt: skip
    network = NetworkSpec(
        factory="renalplan.networks.unet:UNet",
        arguments=arguments | {"in_channels": 1, "heads": labels + 1},
    )
    plan = Plan(
        name="memory", dataset="Dataset001_Memory", planner="nnunet",
        channels=(ChannelPlan(name="CT", normalisation="ct", intensities=HU),),
        stages=(
            StagePlan(
                name="whole", spacing=(1.5, 0.8, 0.8), median_shape=(100, 512, 512),
                patch_size=tuple(given.patch), batch_size=2, network=network,
            ),
        ),
        configurations={"whole": ("whole",)}, default_configuration="whole",
    )  # fmt: skip
    names = {"background": 0} | {f"structure_{i}": i for i in range(1, labels + 1)}
    record = TrainerRecord(
        trainer="UNet",
        configuration="whole",
        settings={},
        networks={"whole": network},
        segmenter=SegmenterSpec(arguments={"stages": {"whole": "whole"}}),
    )
    description = DatasetDescription(channel_names={"0": "CT"}, labels=names)
    model = ModelFolder.create(path, plan, description, record)
    folder = model.fold_folder("0")
    (folder / "whole").mkdir(parents=True)
    weights = build_network(network, "benchmark").state_dict()
    save_file(weights, folder / "whole" / "model.safetensors")
    write_json(folder / FINISHED, Finished(phases=("whole",), seconds=1.0))
    return model


def write_scan(path: str, slices: int) -> None:
    """A body of noise in air; made in another process, so that it leaves nothing in this one."""
    rng = np.random.default_rng(0)
    y, x = np.ogrid[-1:1:512j, -1:1:512j]
    body = (y**2 / 0.8 + x**2 / 0.95) < 1
    array = np.full((slices, 512, 512), -1000, np.int16)
    for plane in array:
        plane[body] = rng.normal(40, 60, int(body.sum())).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.8, 0.8, 1.0))
    sitk.WriteImage(image, path)
    assert prod(image.GetSize()) == array.size


if __name__ == "__main__":
    main()
