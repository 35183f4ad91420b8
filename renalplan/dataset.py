"""A dataset folder: nnU-Net v2's raw format, read as it is, plus unlabelled images, patients and boxes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from renalplan.boxes import BOXES, LabelBox, read_boxes
from renalplan.errors import DatasetError
from renalplan.files import TEMPORARY, read_record, require_shown
from renalplan.images import ENDINGS
from renalplan.labels import LabelScheme, scheme_from_json

UNLABELLED = "imagesUn"
CHANNEL_SUFFIX = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


class DatasetDescription(BaseModel):
    """dataset.json. Keys that only describe (name, reference, licence …) are kept and ignored."""

    model_config = ConfigDict(frozen=True, extra="allow")

    channel_names: dict[str, str] = Field(min_length=1)
    labels: dict[str, int | list[int]] = Field(min_length=1)
    file_ending: str = ".nii.gz"
    numTraining: int | None = None  # noqa: N815  (nnU-Net's key)
    regions_class_order: list[int] | None = None
    patients: dict[str, str] = Field(default_factory=dict)
    mirrored_labels: list[tuple[str, str]] = Field(default_factory=list)

    @field_validator("file_ending")
    @classmethod
    def _known_ending(cls, value: str) -> str:
        if value not in ENDINGS:
            raise ValueError(f"{value!r} is not one of {', '.join(ENDINGS)}")
        return value

    @field_validator("channel_names")
    @classmethod
    def _numbered(cls, value: dict[str, str]) -> dict[str, str]:
        if sorted(value) != sorted(str(i) for i in range(len(value))):
            raise ValueError(f'keys must be "0", "1", … without gaps, they are {sorted(value)}')
        return value

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names in file order."""
        return tuple(self.channel_names[str(i)] for i in range(len(self.channel_names)))

    def scheme(self, where: str = "dataset.json") -> LabelScheme:
        """The labels' meaning; raises DatasetError if the entries do not fit together."""
        return scheme_from_json(self.labels, self.regions_class_order, self.mirrored_labels, where)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One scan: its id, a file for each channel, and its label map or boxes if there are any.

    Attributes:
        boxes: Its rows of boxesTr.csv, if the dataset has one.
        boxes_in: That file.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    patient: str = ""
    boxes: tuple[LabelBox, ...] = ()
    boxes_in: Path = Path(BOXES)

    @property
    def is_boxed(self) -> bool:
        """Whether boxes are all that is known of it."""
        return self.label is None and bool(self.boxes)


@dataclass(frozen=True)
class Dataset:
    """A dataset folder and what its dataset.json says.

    Attributes:
        folder: The folder, e.g. `Dataset101_Kidney`.
        description: The validated dataset.json.
    """

    folder: Path
    description: DatasetDescription

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Read and check dataset.json; images are not touched.

        Raises:
            DatasetError: the folder or dataset.json is missing or not valid.
        """
        if not folder.is_dir():
            raise DatasetError(f"{folder} is not a folder; give a dataset folder.")
        path = folder / "dataset.json"
        if not os.path.lexists(path):
            raise DatasetError(
                f"{folder} has no dataset.json; it must be an nnU-Net-style dataset folder with "
                "dataset.json, imagesTr and labelsTr."
            )
        description = read_record(path, DatasetDescription)
        dataset = cls(folder, description)
        _ = dataset.scheme
        return dataset

    @property
    def name(self) -> str:
        """The folder's name, e.g. `Dataset101_Kidney`."""
        return self.folder.resolve().name

    @cached_property
    def scheme(self) -> LabelScheme:
        """What the label values mean."""
        return self.description.scheme(str(self.folder / "dataset.json"))

    @cached_property
    def training_cases(self) -> tuple[Case, ...]:
        """All cases of imagesTr with their labels or, where there are none, their boxes; sorted by id.

        Raises:
            DatasetError: imagesTr is missing or empty, a case lacks a channel, or it has neither
                label nor box; boxesTr.csv is not valid.
        """
        folder = self.folder / "imagesTr"
        found = find_images(folder, self.description.file_ending)
        if not found:
            raise DatasetError(
                f"{folder} has no images that end in _0000{self.description.file_ending}."
            )
        boxes = self.boxes(found)
        cases = []
        for case_id, channels in found.items():
            case = Case(
                id=case_id,
                images=self.complete(case_id, channels, folder),
                label=self.label_of(case_id, boxes),
                patient=self.patient(case_id),
                boxes=boxes.get(case_id, ()),
                boxes_in=self.folder / BOXES,
            )
            cases.append(case)
        return tuple(cases)

    def boxes(self, cases: Iterable[str]) -> dict[str, tuple[LabelBox, ...]]:
        """Rows of boxesTr.csv by case; empty if there is no such file.

        Raises:
            DatasetError: the file is not valid.
        """
        path = self.folder / BOXES
        if not path.is_file():
            return {}
        values = [v for v in self.scheme.all_values if v not in (0, self.scheme.ignore)]
        return read_boxes(path, values, cases)

    def label_of(self, case_id: str, boxes: dict[str, tuple[LabelBox, ...]]) -> Path | None:
        """A case's label map; None if it has boxes instead.

        Raises:
            DatasetError: it has neither.
        """
        label = self.folder / "labelsTr" / f"{case_id}{self.description.file_ending}"
        if os.path.lexists(label):  # what is wrong with a link or a folder, reading it says
            return label
        if case_id in boxes:
            return None
        more = f", nor a row in {BOXES}" if boxes else ""
        raise DatasetError(f"{label} is missing: {case_id} has an image but no label{more}.")

    @cached_property
    def unlabelled_cases(self) -> tuple[Case, ...]:
        """Cases of imagesUn, sorted by id; empty if there is no such folder.

        Raises:
            DatasetError: a case is also among the labelled ones, or lacks a channel.
        """
        folder = self.folder / UNLABELLED
        found = find_images(folder, self.description.file_ending) if folder.is_dir() else {}
        if both := sorted(found.keys() & {case.id for case in self.training_cases}):
            # a held-out case must not come back as an image to learn from
            raise DatasetError(
                f"{folder} and imagesTr both have {', '.join(both[:5])}; remove or rename one."
            )
        return tuple(
            Case(id=i, images=self.complete(i, channels, folder), patient=self.patient(i))
            for i, channels in found.items()
        )

    def patient(self, case_id: str) -> str:
        """The patient a case belongs to: dataset.json's `patients`, else the case itself."""
        return self.description.patients.get(case_id, case_id)

    def complete(self, case_id: str, channels: dict[int, Path], folder: Path) -> tuple[Path, ...]:
        """A case's files in channel order.

        Raises:
            DatasetError: a channel is missing or there is one too many.
        """
        return require_channels(case_id, channels, self.description.channels, folder)


def require_channels(
    case_id: str, channels: dict[int, Path], names: tuple[str, ...], folder: Path
) -> tuple[Path, ...]:
    """A case's files in channel order, exactly one for each channel name.

    Raises:
        DatasetError: a channel is missing or there is one too many.
    """
    wanted = range(len(names))
    if extra := sorted(i for i in channels if i not in wanted):
        path = channels[extra[0]]
        raise DatasetError(
            f"{path} reads as channel {extra[0]} of the case {case_id}, but the channels are "
            f"{', '.join(f'{i:04d} ({n})' for i, n in enumerate(names))}; rename it if its number is no "
            "channel's, else move the files of further channels away."
        )
    if missing := [i for i in wanted if i not in channels]:
        listing = ", ".join(f"{case_id}_{i:04d} ({names[i]})" for i in missing)
        raise DatasetError(
            f"{folder}: {listing} is missing; every case needs {len(names)} channels."
        )
    return tuple(channels[i] for i in wanted)


def find_images(folder: Path, ending: str | None = None) -> dict[str, dict[int, Path]]:
    """Image files of a folder by case and channel: `{case: {0: path, 1: path}}`, sorted by case.

    Args:
        folder: A folder of `case_0000.nii.gz` files.
        ending: The one format to look for; None takes any format we read.

    Raises:
        DatasetError: the folder is missing, one case and channel is there in two formats, or a name
            cannot be shown.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder.")
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", TEMPORARY)):
            continue
        kind = next((e for e in ((ending,) if ending else ENDINGS) if path.name.endswith(e)), None)
        if kind:
            require_shown(path)
        match = CHANNEL_SUFFIX.match(path.name.removesuffix(kind)) if kind else None
        if match is None:
            continue
        channels = found.setdefault(match["case"], {})
        number = int(match["channel"])
        if number in channels:
            raise DatasetError(
                f"{path} and {channels[number].name} are the same case and channel; remove one."
            )
        channels[number] = path
    return dict(sorted(found.items()))
