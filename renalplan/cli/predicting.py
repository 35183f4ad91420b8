"""The command that segments scans."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from renalplan.cli.common import (
    add_plugins,
    add_postprocessing,
    add_workers,
    command,
    make_parser,
    trust_plugins,
)
from renalplan.workspace import Workspace


@command
def predict(arguments: list[str] | None = None) -> int:
    """Segment scans."""
    parser = make_parser(
        "predict",
        "Segment every scan of a folder, averaging a model's folds, and several models of the same "
        "labels. Outputs lie on exactly the "
        "scans' own grids. Running it again continues.",
        "renalplan_predict -i scans -o segmentations",
    )
    parser.add_argument(
        "-i",
        dest="images",
        type=Path,
        required=True,
        help="folder of scans or of DICOM series, or one file",
    )
    parser.add_argument("-o", dest="out", type=Path, required=True, help="folder for segmentations")
    parser.add_argument("-m", dest="models", type=Path, nargs="+", help="model folders")
    parser.add_argument("-d", dest="task", help="dataset whose model to use")
    parser.add_argument("-tr", dest="trainers", nargs="+", help="its models by name")
    parser.add_argument(
        "-f", dest="folds", nargs="+", help="folds to average (default: all finished)"
    )
    parser.add_argument(
        "--weights",
        type=float,
        nargs="+",
        metavar="W",
        help="how much each model counts, in their order (default: all alike)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps")
    parser.add_argument(
        "--step", type=float, default=0.5, help="window distance / patch size (default 0.5)"
    )
    parser.add_argument(
        "--tta",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="average over mirrored copies: a little better, eight times slower (default: no)",
    )
    parser.add_argument(
        "--engine", default="auto", help="auto (OpenVINO on a CPU if installed), torch, openvino"
    )
    parser.add_argument(
        "--precision",
        default="auto",
        help="auto (what the processor is fastest in), fp32, bf16, fp16",
    )
    parser.add_argument("--batch", type=int, default=1, help="patches computed at a time (1)")
    parser.add_argument(
        "--max_ram", metavar="SIZE", help="memory that may be used, e.g. 4G; the rest lies in files"
    )
    parser.add_argument("--max_vram", metavar="SIZE", help="memory of a GPU that may be used")
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="also write where it is uncertain, and how good it expects itself to be",
    )
    parser.add_argument(
        "--save_probabilities", action="store_true", help="also write probabilities"
    )
    add_postprocessing(parser)
    parser.add_argument("--overwrite", action="store_true", help="predict again what is there")
    parser.add_argument(
        "--parts", type=int, default=1, metavar="N", help="divide the cases among N machines"
    )
    parser.add_argument(
        "--part", type=int, metavar="I", help="which part this machine predicts, 0 to N-1"
    )
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="dask scheduler whose workers predict, on shared files"
    )
    add_workers(
        parser,
        "processes that read the next cases while one is computed, a scan more in memory each; "
        "0: everything in one process (default: 1 if there are two cores)",
    )
    add_plugins(parser)
    given = parser.parse_args(arguments)

    from renalplan.predicting import predict as run

    trust_plugins(given)
    report = run(
        given.images,
        given.out,
        models=given.models,
        task=given.task,
        trainers=given.trainers,
        folds=given.folds,
        weights=given.weights,
        device=given.device,
        step=given.step,
        tta=given.tta,
        engine=given.engine,
        precision=given.precision,
        batch=given.batch,
        uncertainty=given.uncertainty,
        max_ram=_size(given.max_ram, "--max_ram"),
        max_vram=_size(given.max_vram, "--max_vram"),
        save_probabilities=given.save_probabilities,
        postprocessing=given.postprocessing,
        overwrite=given.overwrite,
        workers=given.workers,
        parts=given.parts,
        part=given.part,
        dask=given.dask,
        workspace=Workspace.find(given.workspace),
    )
    kept = f", {len(report.kept)} were there already" if report.kept else ""
    print(f"{len(report.done)} cases predicted{kept}: {given.out}")
    for case, reason in report.failed.items():
        print(f"failed: {case}: {reason}", file=sys.stderr)
    return 1 if report.failed else 0


def _size(text: str | None, option: str) -> int | None:
    from renalplan.inference.room import parse_size

    return None if text is None else parse_size(text, option)
