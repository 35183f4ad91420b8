"""dataset.json beside segmentations: what their labels mean, where the commands that read them look."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from renalplan.dataset import DatasetDescription
from renalplan.errors import DatasetError
from renalplan.files import read_record, remove_leftovers, write_json
from renalplan.inference.scans import ScanFiles
from renalplan.labels import LabelScheme

NAMES = "dataset.json"
OURS = "What the labels of the segmentations in this folder mean; written by renalplan with them."
log = logging.getLogger(__name__)


def name_labels(
    out: Path,
    meant: DatasetDescription,
    scans: Sequence[ScanFiles],
    *,
    overwrite: bool,
    alone: bool,
) -> None:
    """As `write_label_names`, of these scans; not if the decisions about one of them have that name."""
    if scans and all(f"{scan.id}.json" != NAMES for scan in scans):
        write_label_names(out, meant, scans[0].ending, overwrite=overwrite, alone=alone)


def write_label_names(
    out: Path, meant: DatasetDescription, ending: str, *, overwrite: bool, alone: bool
) -> None:
    """Say in a folder of segmentations what their labels mean, unless something there does.

    Args:
        out: The folder.
        meant: Channels and labels of the model.
        ending: Of the segmentations' files.
        overwrite: What is in the folder is replaced, so what we said of it no longer holds.
        alone: Nobody else writes into the folder: what a killed run left of this file goes.

    Raises:
        OSError: it cannot be written.
    """
    path = out / NAMES
    if alone:
        remove_leftovers(out, {NAMES})
    if os.path.lexists(path):
        try:
            there = read_record(path, DatasetDescription)
            if there.scheme(str(path)) == meant.scheme():
                return
            ours = (there.model_extra or {}).get("description") == OURS
            problem = f"{path} says something else of the labels than the model"
        except DatasetError as damage:
            ours, problem = False, str(damage).rstrip(".")
        if not (ours and overwrite):
            log.warning(
                "%s; it is left as it is, so give the model's folder with --labels to commands that read "
                "these segmentations.", problem,
            )  # fmt: skip
            return
    said = {
        "description": OURS,
        "channel_names": meant.channel_names,
        "labels": meant.labels,
        "regions_class_order": meant.regions_class_order,
        "mirrored_labels": meant.mirrored_labels,
        "file_ending": ending,
    }
    write_json(path, {name: value for name, value in said.items() if value})


def find_label_names(folders: tuple[Path, ...], scheme: LabelScheme) -> DatasetDescription | None:
    """What one of the folders says of segmentations with these labels; None if none does."""
    for folder in folders:
        try:
            said = read_record(folder / NAMES, DatasetDescription)
            if said.scheme() == scheme:
                return said
        except DatasetError:
            continue
    return None
