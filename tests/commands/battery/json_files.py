"""Bad JSON, in place of every JSON file that a command reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from battery import making
from battery.row import (
    DATA,
    DESCRIPTION,
    FOLD,
    MODEL,
    PLAN,
    PREDICT,
    PREPROCESSED,
    TRAIN,
    TRUTH,
    Fault,
    Reader,
    Row,
    cross,
)
from renalplan import cli


def as_list(path: Path) -> None:
    """What it holds, in a list."""
    path.write_text(f"[{path.read_text()}]")


def with_nan(path: Path) -> None:
    """No number for every fraction."""
    value = _replaced(json.loads(path.read_text()), float, lambda _: float("nan"))
    path.write_text(json.dumps(value))


def with_words(path: Path) -> None:
    """Words in place of its numbers."""
    value = _replaced(json.loads(path.read_text()), int, lambda _: "many")
    path.write_text(json.dumps(value))


def with_unknown_key(path: Path) -> None:
    """A key more than there are."""
    making.edit_json(path, colour="blue")


def _replaced(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(inner, kind, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, kind, change) for inner in value]
    return change(value) if type(value) is kind else value


def with_a_key_twice(path: Path) -> None:
    """Its first key again, with another value."""
    text = path.read_text()
    first = next(iter(json.loads(text)))
    path.write_text(text.rstrip()[:-1] + f', "{first}": null}}')


NAN = "fractions that are NaN"
WORDS = "words instead of numbers"
NOT_JSON = ("is not valid JSON: line 1, column ", "repair it")
CONTENT = [
    Fault("no bytes at all", making.content(b""), NOT_JSON),
    Fault("cut off", making.content(b'{"labels": {"kid'), NOT_JSON),
    Fault("text instead of JSON", making.content(b"labels: {kidney: 1}"), NOT_JSON),
    Fault("not UTF-8", making.content('{"name": "Näh"}'.encode("latin-1")), ("utf-8", "repair it")),
    Fault("100000 brackets", making.content(b"[" * 100_000), ("recursion", "repair it")),
    Fault("a number of 5000 digits", making.content(b'{"a": ' + b"9" * 5000 + b"}"), ("digits", "repair it")),
    Fault("a key twice", with_a_key_twice, ("is there twice", "repair it")),
    Fault("only null", making.content(b"null"), ("the whole file",)),
]  # fmt: skip
SCHEMA = [
    Fault("a list instead of an object", as_list, ("the whole file",)),
    Fault("an empty object", making.content(b"{}"), ("Field required",)),
    Fault(WORDS, with_words, ("Input should be",)),
]
STRICT = [
    Fault("an unknown key", with_unknown_key, ("colour: Extra inputs are not permitted",)),
    Fault(NAN, with_nan, ("NaN is no number",)),
]
KEPT = [
    Fault("a folder of its name", making.a_folder, ("Is a directory",)),
    Fault("a link to itself", making.a_loop, ("Too many levels of symbolic links",)),
    Fault("no permission to read it", making.closed, ("Permission denied",)),
]


def rows() -> Iterator[Row]:
    yield from cross("dataset.json", CONTENT + SCHEMA + KEPT, DESCRIPTIONS)
    yield from cross("splits.json", CONTENT, SPLITS)
    yield from cross("Other JSON", CONTENT + SCHEMA + STRICT, RECORDS)


def described_model() -> None:
    shutil.copytree(FOLD / "validation", "out")


def saved() -> None:
    """Probabilities of one scan in two folders."""
    name, *arguments = f"{PREDICT} --save_probabilities".replace("-o out", "-o one").split()
    assert getattr(cli, name)(arguments) == 0
    shutil.copytree("one", "two")


def a_rule() -> None:
    rule = {"rule": "minimum_volume", "structure": "kidney", "ml": 0.001}
    (MODEL / "postprocessing.json").write_text(json.dumps({"rules": [rule]}))


DESCRIPTIONS = [
    Reader("check 1 --workers 0", DESCRIPTION),
    Reader(PLAN, DESCRIPTION),
    Reader(f"evaluate {TRUTH} {TRUTH} -o out", DESCRIPTION),
    Reader(f"surgery -s {TRUTH / 'new.nii.gz'} -o out.json --labels {DATA}", DESCRIPTION),
    Reader(TRAIN, PREPROCESSED / "dataset.json"),
    Reader(PREDICT, MODEL / "dataset.json"),
    Reader("export_model -o out.zip", MODEL / "dataset.json"),
]
SPLITS = [
    Reader(PLAN, PREPROCESSED / "splits.json", writes=("work/preprocessed",)),
    Reader(TRAIN, PREPROCESSED / "splits.json"),
]
ON_FOLD_0 = TRAIN.replace("1 1", "1 0")
RECORDS = [
    Reader(PLAN, PREPROCESSED / "fingerprint.json", writes=("work/preprocessed",)),
    Reader(PLAN, PREPROCESSED / "inputs.json", writes=("work/preprocessed",), fine=(NAN,)),
    Reader(PLAN, PREPROCESSED / "renal/plan.json", writes=("work/preprocessed",)),
    Reader(PLAN, PREPROCESSED / "renal/plan_origin.json", writes=("work/preprocessed",), fine=(WORDS,)),
    Reader(TRAIN, PREPROCESSED / "renal/plan.json"),
    Reader(ON_FOLD_0, MODEL / "trainer.json"),
    Reader(PREDICT, MODEL / "plan.json"),
    Reader(PREDICT, MODEL / "trainer.json"),
    Reader(PREDICT, MODEL / "postprocessing.json", prepare=a_rule, writes=("out",), fine=("an empty object", WORDS)),
    Reader(PREDICT + " --uncertainty", FOLD / "finished.json"),
    Reader(PREDICT, Path("out/predict_report.json"), prepare=described_model, status=1, writes=("out",), fine=(WORDS,)),
    Reader("ensemble one two -o out", Path("one/new.probabilities.json"), prepare=saved),
    Reader("export_model -o out.zip", MODEL / "trainer.json"),
    Reader("find_best 1 --workers 0", MODEL / "trainer.json"),
]  # fmt: skip
