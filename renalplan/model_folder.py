"""The model folder: everything prediction needs, without the raw data and without the trainer.

results/<dataset>/<model>/  plan.json  dataset.json  trainer.json  (postprocessing.json)
                            fold_0/<phase>/model.safetensors ...  fold_0/finished.json
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from renalplan.dataset import DatasetDescription
from renalplan.errors import ModelError, UsageError
from renalplan.files import Record, read_record, write_json
from renalplan.imports import load_class
from renalplan.labels import LabelScheme
from renalplan.plan import NetworkSpec, Plan
from renalplan.postprocessing import Postprocessing, read_postprocessing

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "model.safetensors"
FINISHED = "finished.json"
PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$"  # of a folder of ours


class SegmenterSpec(Record):
    """Which segmenter predicts with this model: `module:Class` and JSON arguments."""

    factory: str = "renalplan.inference.segmenters.staged:StagedSegmenter"
    arguments: dict[str, Any] = Field(default_factory=dict)


class TrainerRecord(Record):
    """trainer.json: what was trained and how.

    Attributes:
        trainer: Name or import path of the trainer.
        configuration: Which of the plan's configurations.
        settings: Its hyperparameters as used.
        networks: Phase name -> the network it trained, complete with channels and heads.
        segmenter: Who turns scans into probabilities with them.
        software: Versions at training time.
    """

    version: Literal[1] = 1
    trainer: str
    configuration: str
    settings: dict[str, Any]
    networks: dict[Annotated[str, Field(pattern=PLAIN_NAME)], NetworkSpec]  # names of folders
    segmenter: SegmenterSpec
    software: dict[str, str] = Field(default_factory=dict)


class Finished(Record):
    """fold_N/finished.json: this fold's training ran to its end.

    Attributes:
        phases: All of them.
        seconds: What the last run took.
        training_cases: How many it learned from; 0 if that was not written down yet.
        cases_holding: Structure -> how many of them hold it.
    """

    phases: tuple[str, ...]
    seconds: float
    training_cases: int = Field(default=0, ge=0)
    cases_holding: dict[str, int] = Field(default_factory=dict)


@dataclass(frozen=True)
class ModelFolder:
    """A trained (or being trained) model on disk."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> ModelFolder:
        """Check that a folder is a model.

        Raises:
            ModelError: it is missing, incomplete or not valid.
        """
        if not path.is_dir():
            raise ModelError(f"model folder {path} does not exist.")
        for name in ("plan.json", "dataset.json", "trainer.json"):
            if not os.path.lexists(path / name):  # what cannot be read, reading it says
                raise ModelError(f"{path} is not a model folder: {name} is missing.")
        model = cls(path)
        _ = model.plan, model.scheme, model.record, model.postprocessing
        return model

    @classmethod
    def create(
        cls, path: Path, plan: Plan, description: DatasetDescription, record: TrainerRecord
    ) -> ModelFolder:
        """Write the three files that describe a model."""
        plan.save(path / "plan.json")
        write_json(path / "dataset.json", description)
        write_json(path / "trainer.json", record)
        return cls(path)

    @cached_property
    def plan(self) -> Plan:
        """How scans are prepared for it."""
        return Plan.load(self.path / "plan.json")

    @cached_property
    def description(self) -> DatasetDescription:
        """Channels and labels it was trained for."""
        return read_record(self.path / "dataset.json", DatasetDescription, ModelError)

    @cached_property
    def scheme(self) -> LabelScheme:
        """What its label values mean."""
        return self.description.scheme(str(self.path / "dataset.json"))

    @cached_property
    def record(self) -> TrainerRecord:
        """How it was trained."""
        return read_record(self.path / "trainer.json", TrainerRecord, ModelError)

    @cached_property
    def postprocessing(self) -> Postprocessing | None:
        """The rules its segmentations must obey; None if it has none."""
        return read_postprocessing(self.path, self.scheme)

    def fold_folder(self, fold: int | str) -> Path:
        """Where one fold's phases are."""
        return self.path / f"fold_{fold}"

    def finished_folds(self) -> list[str]:
        """Folds whose training ran to its end: numbers first, then `all`."""
        names = [p.parent.name.removeprefix("fold_") for p in self.path.glob(f"fold_*/{FINISHED}")]
        return sorted(names, key=lambda name: (not name.isdigit(), name.zfill(8)))

    def presence(self, folds: list[str]) -> dict[str, float]:
        """Structure -> how likely a new scan holds it, by the cases these folds learned from.

        By the rule of succession, (held + 1) / (cases + 2); empty for a model that did not count them.
        """
        found = [
            read_record(self.fold_folder(fold) / FINISHED, Finished, ModelError)
            for fold in folds
            if (self.fold_folder(fold) / FINISHED).is_file()
        ]
        counted = [finished for finished in found if finished.training_cases]
        if not counted:
            return {}
        cases = sum(finished.training_cases for finished in counted) / len(counted)
        return {
            name: (sum(f.cases_holding.get(name, 0) for f in counted) / len(counted) + 1)
            / (cases + 2)
            for name in self.scheme.foreground
        }

    def choose_folds(self, wanted: list[str] | None) -> list[str]:
        """The folds to predict with: those asked for, else every finished numbered one, else `all`.

        Raises:
            ModelError: none is finished, or one asked for is not.
            UsageError: one is asked for twice.
        """
        finished = self.finished_folds()
        if not finished:
            raise ModelError(f"{self.path} has no finished fold; train one with renalplan_train.")
        if wanted is None:
            return [fold for fold in finished if fold.isdigit()] or finished
        if twice := sorted({fold for fold in wanted if wanted.count(fold) > 1}):
            raise UsageError(f"fold {', '.join(twice)} is asked for twice; name each fold once.")
        if missing := [fold for fold in wanted if fold not in finished]:
            raise ModelError(
                f"{self.path}: fold {', '.join(missing)} is not finished; "
                f"finished are {', '.join(finished)}."
            )
        return wanted

    def load_network(self, phase: str, fold: str) -> nn.Module:
        """One phase's trained network, in evaluation mode, on the CPU.

        Raises:
            ModelError: weights are missing, damaged, not finite, or do not fit the network.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if phase not in self.record.networks:
            raise ModelError(
                f"{self.path / 'trainer.json'} has no network for the phase {phase!r}."
            )
        network = build_network(self.record.networks[phase], str(self.path / "trainer.json"))
        path = self.fold_folder(fold) / phase / WEIGHTS
        if not path.is_file():
            raise ModelError(f"{path} is missing; train fold {fold} again or copy it.")
        try:
            path.open("rb").close()  # safetensors takes a file it may not read for none
            weights = load_file(path)
        except PermissionError as problem:
            raise ModelError(
                f"{path} cannot be read: {problem.strerror}; change its permissions."
            ) from None
        except (SafetensorError, OSError) as problem:
            raise ModelError(f"{path} is damaged: {problem}.") from None
        if broken := [name for name, values in weights.items() if not values.isfinite().all()]:
            raise ModelError(
                f"{path} holds weights that are not finite ({broken[0]}); train fold {fold} again or "
                "copy it."
            )
        try:
            network.load_state_dict(weights)
        except RuntimeError as problem:
            reason = str(problem).splitlines()[-1].strip()
            raise ModelError(f"{path} does not fit its network: {reason}") from None
        return network.eval()


def require_plain_name(name: str) -> str:
    """The name a user gives a model folder: one that stays in its place, and in an archive.

    Raises:
        UsageError: it leads elsewhere, is hidden, or could not be exported.
    """
    if not re.fullmatch(PLAIN_NAME, name):
        raise UsageError(f"--name {name!r}: use letters, digits, _ . + - only.")
    return name


def build_network(spec: NetworkSpec, where: str) -> nn.Module:
    """Build an untrained network from its specification.

    Raises:
        ModelError: the class is not trusted or not a network, or refuses its arguments.
    """
    from torch import nn

    factory = load_class(spec.factory, nn.Module, where)
    try:
        return factory(**spec.arguments)
    except (TypeError, ValueError, ArithmeticError, LookupError) as problem:
        raise ModelError(f"{where}: {spec.factory} refuses its arguments: {problem}.") from None
    except (RuntimeError, MemoryError):
        raise ModelError(
            f"{where}: {spec.factory} cannot be built: its sizes fit no network, or not into memory."
        ) from None
