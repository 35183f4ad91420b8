"""A model folder as one zip, to send to another machine; what is in one is checked on the way in.

    manifest.json        every other file with its size and hash
    plan.json  dataset.json  trainer.json  (postprocessing.json)
    fold_0/finished.json  fold_0/<phase>/model.safetensors ...

Nothing in an archive is believed: names must be of this form (so none leads out of the folder),
weights lie in it uncompressed (so a small file cannot fill the disk), contents must have the hashes
of the manifest, and JSON and weights are read as those of any model folder are.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Literal
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from pydantic import Field

from renalplan.errors import ModelError, RenalplanError, UsageError
from renalplan.files import (
    Record,
    atomic_file,
    atomic_folder,
    content_hash,
    json_text,
    parse_record,
)
from renalplan.locks import hold_files
from renalplan.model_folder import (
    FINISHED,
    PLAIN_NAME,
    WEIGHTS,
    ModelFolder,
    require_plain_name,
)
from renalplan.postprocessing import POSTPROCESSING

MANIFEST = "manifest.json"
DESCRIPTION = "dataset.json"
DESCRIPTIONS = ("plan.json", DESCRIPTION, "trainer.json")
MEMBER = re.compile(
    r"(plan|dataset|trainer|postprocessing)\.json"
    r"|fold_[A-Za-z0-9]+/finished\.json"
    r"|fold_[A-Za-z0-9]+/[A-Za-z0-9_]+/model\.safetensors"
)
LARGEST_JSON = 64 << 20  # bytes
CHUNK = 1 << 20
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member: equal models give equal archives


class Member(Record):
    """One file of an archive."""

    size: int = Field(ge=0)
    blake2b: str


class Manifest(Record):
    """manifest.json.

    Attributes:
        name: Of the model folder.
        dataset: What it was trained on.
        files: Path in the archive -> size and hash.
    """

    format: Literal["renalplan model"] = "renalplan model"
    version: Literal[1] = 1
    name: str = Field(pattern=PLAIN_NAME)
    dataset: str = Field(pattern=PLAIN_NAME)
    files: dict[str, Member]


def pack_model(model: ModelFolder, out: Path, folds: Iterable[str], phases: Iterable[str]) -> Path:
    """Write a model's zip, by rename.

    Args:
        model: The model folder.
        out: The zip to write.
        folds: Finished folds to take along.
        phases: Phases whose networks prediction needs.

    Raises:
        ModelError: weights are missing.
        UsageError: the folder's or its dataset's name cannot be kept in an archive.
    """
    names = [
        *DESCRIPTIONS,
        *([POSTPROCESSING] if model.postprocessing is not None else []),
        *(f"fold_{fold}/{FINISHED}" for fold in folds),
        *(f"fold_{fold}/{phase}/{WEIGHTS}" for fold in folds for phase in phases),
    ]
    if missing := [name for name in names if not (model.path / name).is_file()]:
        raise ModelError(f"{model.path / missing[0]} is missing; train that fold again.")
    for what in (model.path.resolve().name, model.plan.dataset):
        if not re.fullmatch(PLAIN_NAME, what):
            raise UsageError(
                f"{what!r} cannot be a name in an archive; rename it with letters, digits, _ . + -"
            )
    texts = {DESCRIPTION: without_patients(model)}
    manifest = Manifest(
        name=model.path.resolve().name,
        dataset=model.plan.dataset,
        files={
            name: _text_member(texts[name]) if name in texts else _member(model.path / name)
            for name in names
        },
    )
    with atomic_file(out) as temporary, ZipFile(temporary, "w") as archive:
        _add_text(archive, MANIFEST, manifest.model_dump_json(indent=2))
        for name in names:
            if name in texts:
                _add_text(archive, name, texts[name])
            else:
                _add_file(archive, name, model.path / name)
    return out


def without_patients(model: ModelFolder) -> str:
    """The model's dataset.json without the names of cases and patients: they stay at home."""
    return json_text(model.description.model_copy(update={"patients": {}}))


def unpack_model(
    path: Path,
    results: Path,
    *,
    name: str | None = None,
    overwrite: bool = False,
    check: Callable[[ModelFolder], object] | None = None,
) -> ModelFolder:
    """Check an archive and make a model folder of it, by rename: `results/<dataset>/<name>`.

    Args:
        path: The zip.
        results: The workspace's results folder.
        name: Of the model folder; the one it had if None.
        overwrite: Replace a model of that name.
        check: Raises a `ModelError` if the model names what it must not.

    Raises:
        ModelError: the archive is damaged, is no model of ours, or holds what a model does not.
        UsageError: there is no such file, a model of that name is there, or another run installs one.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist.")
    if name is not None:
        require_plain_name(name)
    try:
        with ZipFile(path) as archive:
            manifest = _read_manifest(archive, path)
            target = results / manifest.dataset / (name or manifest.name)
            if target.exists() and not overwrite:
                raise UsageError(
                    f"{target} is there already; install under another --name, or add --overwrite."
                )
            with hold_files(target), atomic_folder(target) as temporary:
                for member, expected in manifest.files.items():
                    _extract(archive, member, expected, temporary / member, path)
                _check_model(temporary, manifest, path, check)
    except (BadZipFile, EOFError, NotImplementedError, RuntimeError) as problem:
        if isinstance(problem, ModelError | UsageError):
            raise
        raise ModelError(f"{path} is not a zip that can be read: {problem}.") from None
    return ModelFolder.open(target)


def _member(path: Path) -> Member:
    return Member(size=path.stat().st_size, blake2b=content_hash(path))


def _text_member(text: str) -> Member:
    data = text.encode()
    return Member(size=len(data), blake2b=hashlib.blake2b(data, digest_size=16).hexdigest())


def _info(name: str, method: int) -> ZipInfo:
    info = ZipInfo(name, EPOCH)
    info.compress_type = method
    info.external_attr = 0o644 << 16
    return info


def _add_text(archive: ZipFile, name: str, text: str) -> None:
    archive.writestr(_info(name, ZIP_DEFLATED), text)


def _add_file(archive: ZipFile, name: str, path: Path) -> None:
    info = _info(name, ZIP_STORED if name.endswith(WEIGHTS) else ZIP_DEFLATED)
    info.file_size = path.stat().st_size  # so that archives beyond 2 GiB work
    with archive.open(info, "w") as target, path.open("rb") as source:
        shutil.copyfileobj(source, target, CHUNK)


def _read_manifest(archive: ZipFile, path: Path) -> Manifest:
    """The manifest, once the list of members agrees with it."""
    members = archive.infolist()
    names = [info.filename for info in members]
    if MANIFEST not in names:
        raise ModelError(f"{path} is no model archive: {MANIFEST} is missing in it.")
    for info in members:
        _check_member(info, path)
    text = b"".join(_chunks(archive.open(MANIFEST), LARGEST_JSON, path, MANIFEST))
    manifest = parse_record(_json(text, path), Manifest, f"{path}: {MANIFEST}", ModelError)
    if sorted(names) != sorted([MANIFEST, *manifest.files]):
        raise ModelError(f"{path}: the files in it are not those of its {MANIFEST}.")
    return manifest


def _check_member(info: ZipInfo, path: Path) -> None:
    """Refuse names that lead elsewhere, and what is not stored the way we store it."""
    name = info.filename
    if name != MANIFEST and not MEMBER.fullmatch(name):
        raise ModelError(
            f"{path} holds {name!r}, which is no file of a model; nothing was installed."
        )
    if name.endswith(WEIGHTS) and info.compress_type != ZIP_STORED:
        raise ModelError(f"{path}: {name} is compressed; weights must not be.")
    if not name.endswith(WEIGHTS) and info.file_size > LARGEST_JSON:
        raise ModelError(f"{path}: {name} is larger than a description can be.")


def _json(text: bytes, path: Path) -> object:
    import json

    try:
        value: object = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as problem:
        raise ModelError(f"{path}: {MANIFEST} is not JSON: {problem}.") from None
    return value


def _extract(archive: ZipFile, name: str, expected: Member, target: Path, path: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.blake2b(digest_size=16)
    with archive.open(name) as source, target.open("wb") as stream:
        for chunk in _chunks(source, expected.size, path, name):
            digest.update(chunk)
            stream.write(chunk)
        size = stream.tell()
    if (size, digest.hexdigest()) != (expected.size, expected.blake2b):
        raise ModelError(f"{path}: {name} is not what its {MANIFEST} says; copy the archive again.")


def _chunks(source: IO[bytes], most: int, path: Path, name: str) -> Iterator[bytes]:
    """The contents, which must not be longer than said: a size in a zip's header is only a claim."""
    read = 0
    while chunk := source.read(CHUNK):
        read += len(chunk)
        if read > most:
            raise ModelError(f"{path}: {name} is longer than its {MANIFEST} says.")
        yield chunk


def _check_model(
    folder: Path, manifest: Manifest, path: Path, check: Callable[[ModelFolder], object] | None
) -> None:
    """All that was unpacked makes a model whose weights fit their networks."""
    try:
        model = ModelFolder.open(folder)
        _read_all(model, manifest, path)
        if check is not None:
            check(model)
    except RenalplanError as problem:  # the folder it names will be gone
        raise ModelError(str(problem).replace(str(folder), str(path))) from None


def _read_all(model: ModelFolder, manifest: Manifest, path: Path) -> None:
    if model.plan.dataset != manifest.dataset:
        raise ModelError(f"{path}: its plan is of {model.plan.dataset}, not {manifest.dataset}.")
    if not model.finished_folds():
        raise ModelError(f"{path} holds no finished fold.")
    for name in manifest.files:
        if name.endswith(WEIGHTS):
            fold, phase, _ = name.split("/")
            model.load_network(phase, fold.removeprefix("fold_"))
