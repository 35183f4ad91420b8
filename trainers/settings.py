"""Hyperparameters as data: a trainer's settings, shown by --help-trainer and changed by --set."""

from __future__ import annotations

import difflib
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from renalplan.errors import UsageError
from renalplan.files import Record


class TrainerSettings(Record):
    """What every trainer can be told."""

    seed: int = Field(default=0, ge=0, description="decides every random draw")
    label_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the fold's training patients to learn from, for learning curves",
    )
    channels: tuple[int, ...] | None = Field(
        default=None,
        min_length=1,
        description="image channels that the networks see, e.g. 0; new scans then need these alone; "
        "all if unset",
    )

    @field_validator("channels", mode="before")
    @classmethod
    def _numbers_from_text(cls, value: Any) -> Any:
        """On the command line they stand in one word."""
        return value.split(",") if isinstance(value, str) else value

    @field_validator("channels")
    @classmethod
    def _channels_differ(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (min(value) < 0 or len(set(value)) < len(value)):
            raise ValueError("channels are different numbers from 0, such as 0 or 0,1")
        return value


SettingsType = TypeVar("SettingsType", bound=TrainerSettings)


def parse_settings(kind: type[SettingsType], assignments: list[str]) -> SettingsType:
    """Settings with some values changed: `["epochs=50", "augmentation.mirror=false"]`.

    Raises:
        UsageError: not of the form name=value, unknown name (with the nearest ones), wrong type or
            out of range.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: needs the form name=value.")
        _check_name(kind, path)
        place = values
        *groups, name = path.split(".")
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = None if text.lower() in ("none", "null") else text
    try:
        return kind.model_validate(values)
    except ValidationError as problem:
        first = problem.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise UsageError(f"--set {name}={first['input']}: {reason}.") from None


def _check_name(kind: type[BaseModel], path: str) -> None:
    names = list(flat_settings(kind()))
    if path not in names:
        near = difflib.get_close_matches(path, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"settings are {', '.join(names)}."
        raise UsageError(f"--set {path}: there is no such setting; {hint}")


def flat_settings(settings: BaseModel, prefix: str = "") -> dict[str, tuple[Any, str]]:
    """Dotted name -> (value, description) of every setting, nested ones included."""
    found: dict[str, tuple[Any, str]] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            found |= flat_settings(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = (value, _explained(field))
    return found


def _explained(field: FieldInfo) -> str:
    """A setting's description, after the words it can be if those are few."""
    text = field.description or ""
    if get_origin(field.annotation) is not Literal:
        return text
    choices = " | ".join(map(str, get_args(field.annotation)))
    return f"{choices}; {text}" if text else choices
