"""Where things live: raw datasets, preprocessed stores, results. One folder, one variable."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from renalplan.errors import UsageError

DESCRIPTION = "dataset.json"
DATASET_NAME = re.compile(r"^(?:Dataset|Task)(\d+)_.+$")


@dataclass(frozen=True)
class Workspace:
    """The folder that holds `raw/`, `preprocessed/` and `results/`."""

    root: Path

    @classmethod
    def find(cls, given: str | Path | None = None) -> Workspace:
        """The given folder, else `RENALPLAN_WORKSPACE`, else `./renalplan_workspace`."""
        chosen = given or os.environ.get("RENALPLAN_WORKSPACE") or "renalplan_workspace"
        return cls(Path(chosen).expanduser())

    def absolute(self) -> Workspace:
        """The same folder by a name that holds on other machines, whatever their current folder."""
        return Workspace(self.root.absolute())

    @property
    def raw_folders(self) -> list[Path]:
        """Where datasets are looked up: our own folder, then nnU-Net's if its variable is set."""
        theirs = os.environ.get("nnUNet_raw")  # noqa: SIM112  (nnU-Net's spelling)
        ours = self.root / "raw"
        same = theirs is not None and os.path.realpath(theirs) == os.path.realpath(ours)
        return [ours, *([Path(theirs)] if theirs and not same else [])]

    def preprocessed(self, dataset: str) -> Path:
        """A dataset's fingerprint, splits, plans and stores."""
        return self.root / "preprocessed" / dataset

    def plan_folder(self, dataset: str, plan: str) -> Path:
        """A plan and its stores, one sub-folder a stage."""
        return self.preprocessed(dataset) / plan

    def results(self, dataset: str) -> Path:
        """A dataset's model folders, one a trainer."""
        return self.root / "results" / dataset

    def dataset_folders(self) -> list[Path]:
        """Every dataset folder that can be named by number or name."""
        return [
            entry
            for folder in self.raw_folders
            if folder.is_dir()
            for entry in sorted(folder.iterdir())
            if entry.is_dir() and DATASET_NAME.match(entry.name)
        ]

    def label_names(self, named: str | Path, option: str) -> Path:
        """The dataset.json that is meant: by a path, or by a dataset's number or name.

        Args:
            named: dataset.json, or the folder that holds it (a dataset, a model); if there is no such
                path, a dataset of raw/ or preprocessed/.
            option: What asks for it, for the sentence if it is not found.

        Raises:
            UsageError: there is none, or two datasets have the same number.
        """
        path = Path(named).expanduser()
        if path.is_dir():
            return path / DESCRIPTION
        if os.path.lexists(path):
            return path
        ours = self.root / "preprocessed"
        places = [*self.raw_folders, ours]
        known = [*self.dataset_folders(), *(sorted(ours.iterdir()) if ours.is_dir() else ())]
        there = [folder for folder in known if (folder / DESCRIPTION).is_file()]
        found = {folder.name: folder for folder in reversed(_named(there, str(named)))}
        if len(found) > 1:
            raise UsageError(f"{option} {named} is ambiguous: {', '.join(sorted(found))}.")
        if not found:
            looked = " and ".join(str(place) for place in places)
            raise UsageError(
                f"{option} {named} does not exist, nor is it a dataset in {looked}; give a dataset.json, "
                "the folder of a dataset or model, or a dataset's number or name in the workspace "
                "(RENALPLAN_WORKSPACE)."
            )
        return next(iter(found.values())) / DESCRIPTION

    def dataset_folder(self, task: str) -> Path:
        """The folder a TASK means: a path, a full name, or a number.

        Raises:
            UsageError: there is none, or two have the same number.
        """
        path = Path(task).expanduser()
        if path.is_dir():
            return path
        if os.sep in task:
            raise UsageError(f"dataset folder {task} does not exist.")
        known = self.dataset_folders()
        found = _named(known, task)
        if len(found) > 1:
            raise UsageError(f"TASK {task} is ambiguous: {', '.join(str(f) for f in found)}.")
        if found:
            return found[0]
        near = difflib.get_close_matches(task, [f.name for f in known], n=3, cutoff=0.4)
        hint = (
            f"Did you mean {' or '.join(near)}?"
            if near
            else "Give a path, put the folder there, or name the workspace "
            "(--workspace or RENALPLAN_WORKSPACE)."
        )
        looked = " and ".join(str(folder) for folder in self.raw_folders)
        raise UsageError(f"no dataset {task!r} in {looked}. {hint}")


def _named(folders: list[Path], task: str) -> list[Path]:
    """Those of this number or name."""
    if not task.isdecimal():
        return [folder for folder in folders if folder.name == task]
    matches = ((folder, DATASET_NAME.match(folder.name)) for folder in folders)
    return [folder for folder, match in matches if match and int(match[1]) == int(task)]
