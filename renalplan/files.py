"""Files appear by rename, JSON is validated on the way in, and contents have fingerprints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from renalplan.errors import DatasetError, RenalplanError

TEMPORARY = ".tmp-"  # every unfinished file or folder carries this prefix


class Record(BaseModel):
    """Base of everything we keep as JSON: immutable, unknown keys are refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


RecordType = TypeVar("RecordType", bound=BaseModel)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the ending (`.nii.gz`), since writers choose the format by it.
    If the block raises, nothing is left behind and a file that stood at `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as problem:
        if problem.errno and not problem.filename:  # a failed write does not know its file
            problem.filename = str(path)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


@contextlib.contextmanager
def writing(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn what a library raises when it cannot write `path` into an OSError that says so."""
    try:
        yield
    except errors as problem:
        reason = next(iter(str(problem).splitlines()), type(problem).__name__).rstrip(".")
        raise OSError(
            f"{path} cannot be written ({reason}); is the disk full? Then free some and "
            "run the same command again: it continues."
        ) from None


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; it becomes `path` (replacing it) when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()  # not mkdtemp: its folders are closed to the group
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed runs left unfinished directly inside `folder`."""
    if not folder.is_dir():
        return
    for entry in folder.glob(f"{TEMPORARY}*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text by rename."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON (or a Record) by rename, indented for people to read."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """What `write_json` writes."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=False)
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path, error: type[RenalplanError] = DatasetError) -> Any:
    """Read JSON, in which every number is one (no NaN) and every text can be written again.

    Raises:
        error: the file is missing, unreadable or not JSON; the sentence names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
        if "\\ud" in text.lower():  # half of a pair that stands for one character
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except FileNotFoundError:
        raise error(f"{path} does not exist.") from None
    except (OSError, UnicodeError, RecursionError) as problem:
        raise error(f"{path} cannot be read: {problem}.") from None
    except json.JSONDecodeError as problem:
        raise error(
            f"{path} is not valid JSON: line {problem.lineno}, column {problem.colno}: {problem.msg}."
        ) from None
    except ValueError as problem:  # a number that is none, or of thousands of digits
        raise error(f"{path} is not valid JSON: {problem}.") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number")
    return number


def read_record(
    path: Path, kind: type[RecordType], error: type[RenalplanError] = DatasetError
) -> RecordType:
    """Read JSON and check it against its schema.

    Raises:
        error: the file is missing, not JSON, or a key is missing, unknown or of the wrong type.
    """
    return parse_record(read_json(path, error), kind, str(path), error)


def parse_record(
    value: Any, kind: type[RecordType], where: str, error: type[RenalplanError] = DatasetError
) -> RecordType:
    """Check plain JSON values against a schema; `where` names the source in the error."""
    try:
        return kind.model_validate(value)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        more = f" (and {problem.error_count() - 1} more)" if problem.error_count() > 1 else ""
        raise error(f"{where}: {place}: {first['msg']}{more}.") from None


def content_hash(*paths: Path) -> str:
    """BLAKE2 fingerprint of the files' bytes, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def value_hash(value: Any) -> str:
    """BLAKE2 fingerprint of a JSON-serialisable value or Record."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
