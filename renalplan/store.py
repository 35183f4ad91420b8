"""The store: one compressed chunked array for each case (or region of a case) of a stage.

A patch reads only the chunks it touches. Images are float16 (normalised values lie within a few
units, so half precision keeps CT to about 0.1 HU), labels the smallest integer type.

    preprocessed/<dataset>/<plan>/<stage>/case_0001.json          written last: the case is complete
                                          case_0001.0.image.b2nd  first region (or the whole volume)
                                          case_0001.0.labels.b2nd
                                          case_0001.0.places.npz  voxels of each structure
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import blosc2
import numpy as np
from numpy.typing import NDArray

from renalplan.errors import TrainingError
from renalplan.files import Record, atomic_file, read_record, write_json, writing
from renalplan.geometry import Box, Shape
from renalplan.labels import LabelScheme

PLACES_PER_STRUCTURE = 10_000
ANNOTATED = "annotated voxels"  # what may be drawn from when a dataset has an ignore label
CHUNK_VOXELS = 64  # chunk edge: a 128-voxel patch touches at most 27 chunks
BLOCK_VOXELS = 16


class StoredItem(Record):
    """One array of a case in a store.

    Attributes:
        name: File stem, `<case>.<number>`.
        box: The part of the canonical scan that it covers, voxels.
        shape: Its shape along the plan's axes.
        structures: Structure name -> voxels of it, so that sampling knows what is where.
    """

    name: str
    box: Box
    shape: Shape
    structures: dict[str, int]


class StoredCase(Record):
    """The sidecar that says a case is complete in a stage's store.

    Attributes:
        case: Case id.
        patient: Who it is of, so that splits can be checked against what is stored.
        inputs: Content hash of the files it was made from.
        recipe: Hash of everything in the plan that shaped it.
        spacing: mm along the plan's axes.
        items: Its arrays; none if the case has no region of interest, the whole scan if it has no
            labels to find regions by.
    """

    case: str
    patient: str
    inputs: str
    recipe: str
    spacing: tuple[float, float, float]
    items: tuple[StoredItem, ...]


@dataclass(frozen=True)
class ItemArrays:
    """Lazily opened arrays of one stored item; cheap to make, safe to send to a worker.

    Attributes:
        folder: The stage's store.
        item: What is stored.
        case: Whose it is.
        labels_in: Folder of labels that a trainer's phase made, instead of the store's own.
        channels: Which of the image's channels are read, in this order; None is all.
    """

    folder: Path
    item: StoredItem
    case: str
    labels_in: Path | None = None
    channels: tuple[int, ...] | None = None

    @cached_property
    def image(self) -> Any:
        """(channel, *shape) float16, chunked; slicing reads only what is asked for."""
        return open_array(self.folder / f"{self.item.name}.image.b2nd")

    @cached_property
    def labels(self) -> Any:
        """(1, *shape) integers, chunked; label values as in dataset.json."""
        return open_array((self.labels_in or self.folder) / f"{self.item.name}.labels.b2nd")

    @cached_property
    def places(self) -> dict[str, NDArray[np.int32]]:
        """Structure name -> (n, 3) voxels of it along the plan's axes."""
        path = (self.labels_in or self.folder) / f"{self.item.name}.places.npz"
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, BadZipFile) as problem:
            raise TrainingError(
                f"{path} cannot be read ({problem}); delete it if it is there and run "
                "renalplan_plan_and_preprocess again."
            ) from None

    def patch(
        self, start: tuple[int, ...], size: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], NDArray]:
        """Image (channel, *size) and labels (1, *size) from `start`; zeros beyond the border."""
        return self.image_patch(start, size), self._cut("labels", start, size)

    def stored_patch(
        self, start: tuple[int, ...], size: tuple[int, ...]
    ) -> tuple[NDArray[np.float16], NDArray]:
        """As `patch`, the image in the type it is stored in."""
        return self._chosen(self._cut("image", start, size)), self._cut("labels", start, size)

    @property
    def channel_count(self) -> int:
        """How many channels of the image are read."""
        return len(self.channels) if self.channels is not None else int(self.image.shape[0])

    def image_patch(self, start: tuple[int, ...], size: tuple[int, ...]) -> NDArray[np.float32]:
        """Image (channel, *size) from `start`; zeros beyond the border."""
        return self._chosen(self._cut("image", start, size)).astype(np.float32)

    def with_channels(self, channels: tuple[int, ...] | None) -> ItemArrays:
        """The same item, of whose image only these channels are read."""
        return replace(self, channels=channels)

    def whole_image(self) -> NDArray[np.float32]:
        """Image (channel, *shape)."""
        return self.image_patch((0, 0, 0), self.item.shape)

    def _chosen(self, image: NDArray) -> NDArray:
        return image if self.channels is None else image[list(self.channels)]

    def _cut(self, kind: str, start: tuple[int, ...], size: tuple[int, ...]) -> NDArray:
        # it brings PyTorch along, which a process that only writes stores does not wait for
        from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd

        box = [[int(a), int(a + n)] for a, n in zip(start, size, strict=True)]
        try:
            return crop_and_pad_nd(getattr(self, kind), box, 0)
        except RuntimeError as problem:
            if isinstance(problem, TrainingError):
                raise
            raise TrainingError(
                f"{self.folder / self.item.name}.{kind}.b2nd is damaged ({problem}); delete it "
                "and run renalplan_plan_and_preprocess again."
            ) from None


def write_item(
    folder: Path,
    name: str,
    image: NDArray[np.float32],
    labels: NDArray | None,
    box: Box,
    scheme: LabelScheme,
) -> StoredItem:
    """Write one item's files by rename; the case's sidecar comes after all its items."""
    write_array(folder / f"{name}.image.b2nd", image.astype(np.float16))
    structures = {} if labels is None else write_labels(folder, name, labels, scheme)
    return StoredItem(name=name, box=box, shape=image.shape[1:], structures=structures)


def write_labels(folder: Path, name: str, labels: NDArray, scheme: LabelScheme) -> dict[str, int]:
    """Write an item's labels (z, y, x) and where each structure is; returns the voxels of each."""
    write_array(folder / f"{name}.labels.b2nd", labels[None])
    places, structures = find_places(labels, scheme)
    with (
        atomic_file(folder / f"{name}.places.npz") as temporary,
        temporary.open("wb") as stream,
    ):
        np.savez_compressed(stream, **places)  # type: ignore[arg-type]
    return structures


def find_places(
    labels: NDArray, scheme: LabelScheme
) -> tuple[dict[str, NDArray[np.int32]], dict[str, int]]:
    """Voxels of each structure: at most `PLACES_PER_STRUCTURE` or 1 %, drawn with a fixed seed."""
    masks = {name: np.isin(labels, values) for name, values in scheme.foreground.items()}
    if scheme.ignore is not None:
        masks[ANNOTATED] = labels != scheme.ignore
    places, counts = {}, {}
    for number, (name, mask) in enumerate(masks.items()):
        found = np.flatnonzero(mask)
        counts[name] = int(found.size)
        if found.size == 0:
            continue
        wanted = min(found.size, max(PLACES_PER_STRUCTURE, found.size // 100))
        chosen = np.random.default_rng([1234, number]).choice(found, wanted, replace=False)
        places[name] = np.stack(np.unravel_index(np.sort(chosen), labels.shape), 1).astype(np.int32)
    return places, counts


def write_array(path: Path, array: NDArray) -> None:
    """Write a compressed chunked array by rename."""
    spatial = array.shape[-3:]
    chunks = (1,) * (array.ndim - 3) + tuple(min(n, CHUNK_VOXELS) for n in spatial)
    blocks = tuple(min(n, BLOCK_VOXELS) for n in chunks)
    with atomic_file(path) as temporary, writing(path, RuntimeError):
        temporary.unlink(missing_ok=True)
        blosc2.asarray(
            np.ascontiguousarray(array),
            urlpath=str(temporary),
            mode="w",
            chunks=chunks,
            blocks=blocks,
            # measured beside zstd: a third more disk, half the time to write, a quarter to read
            cparams={"codec": blosc2.Codec.LZ4, "clevel": 1},
        )


def open_array(path: Path) -> Any:
    """Open a chunked array for reading.

    Raises:
        TrainingError: missing, damaged, or something else than a plain array.
    """
    try:
        # one thread an array: data workers read several at a time
        array = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
    except (OSError, RuntimeError, ValueError) as problem:
        raise TrainingError(
            f"{path} cannot be opened ({problem}); delete it if it is there and run "
            "renalplan_plan_and_preprocess again."
        ) from None
    if type(array) is not blosc2.NDArray:
        # a lazy expression in the file could compute when read; a store holds plain arrays only
        raise TrainingError(f"{path} is not a plain array; delete it and preprocess again.")
    return array


def read_case(folder: Path, case: str) -> StoredCase | None:
    """A case's sidecar, None if it is not (completely) in the store."""
    path = folder / f"{case}.json"
    return read_record(path, StoredCase, TrainingError) if path.is_file() else None


def has_files(folder: Path, item: StoredItem) -> bool:
    """Whether an item's files are there; only labelled items name structures."""
    endings = ["image.b2nd", *(["labels.b2nd", "places.npz"] if item.structures else [])]
    return all((folder / f"{item.name}.{ending}").is_file() for ending in endings)


def forget_case(folder: Path, case: str) -> None:
    """Declare a case incomplete, before its arrays are written anew."""
    (folder / f"{case}.json").unlink(missing_ok=True)


def write_case(folder: Path, case: StoredCase) -> None:
    """Commit a case: after this it counts as complete."""
    write_json(folder / f"{case.case}.json", case)


def open_items(folder: Path, cases: tuple[str, ...]) -> list[ItemArrays]:
    """The arrays of these cases, in order.

    Raises:
        TrainingError: a case is not in the store.
    """
    return [
        ItemArrays(folder, item, case)
        for case in cases
        for item in require_case(folder, case).items
    ]


def require_case(folder: Path, case: str) -> StoredCase:
    """A case's sidecar.

    Raises:
        TrainingError: the case is not (completely) in the store.
    """
    stored = read_case(folder, case)
    if stored is None:
        raise TrainingError(
            f"{case} is not in {folder}; run renalplan_plan_and_preprocess (it continues "
            "where it stopped)."
        )
    return stored
