"""Models and stores that are incomplete, damaged, of something else, or of an attacker."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import blosc2
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from battery import making
from battery.row import (
    FOLD,
    MODEL,
    PREDICT,
    STORE,
    TRAIN,
    WEIGHTS,
    Fault,
    Reader,
    Row,
    cross,
)
from renalplan import cli


class Bomb:
    """Creates the file `evil` when it is unpickled, which stands for any code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("evil"),)


def pickled(path: Path) -> None:
    """A pickle that runs code."""
    path.write_bytes(pickle.dumps(Bomb()))


def saved_by_torch(path: Path) -> None:
    """A checkpoint whose pickle runs code."""
    torch.save({"network": Bomb()}, path)


def weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], Any]:
    """Other weights of the same names."""
    return lambda path: save_file({n: change(w) for n, w in load_file(path).items()}, path)


def other_names(path: Path) -> None:
    save_file({f"other.{name}": value for name, value in load_file(path).items()}, path)


def huge_header(path: Path) -> None:
    """A header that says it is longer than any memory."""
    path.write_bytes((1 << 60).to_bytes(8, "little") + path.read_bytes()[8:])


def trainer_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """Other entries in trainer.json."""

    def make(path: Path) -> None:
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return make


def argument(**values: Any) -> Callable[[Path], Any]:
    """Other arguments of its network."""
    return trainer_json(lambda t: t["networks"]["whole"]["arguments"].update(values))


WEIGHT_FAULTS = [
    Fault("missing", Path.unlink, ("is missing", "train fold 0 again or copy it")),
    Fault("cut off", making.truncate, ("is damaged",)),
    Fault("no bytes at all", making.content(b""), ("is damaged",)),
    Fault("a pickle that runs code", pickled, ("is damaged",)),
    Fault("a checkpoint that runs code", saved_by_torch, ("is damaged",)),
    Fault("a header of 2^60 bytes", huge_header, ("is damaged",)),
    Fault("of another network", other_names, ("does not fit its network",)),
    Fault("of another size", weights(lambda w: w.new_zeros((*w.shape, 2))), ("does not fit its network",)),
    Fault("weights that are NaN", weights(lambda w: w * torch.nan), ("not finite", "train fold 0 again")),
    Fault("no permission to read them", making.closed, ("ermission denied",)),
]  # fmt: skip

CODE = [
    Fault(
        "the standard library as its network", trainer_json(lambda t: t["networks"]["whole"].update(factory="os:system")),
        ("asks for code of the module 'os'", "--plugin os"),
    ),
    Fault(
        "a function as its network",
        trainer_json(lambda t: t["networks"]["whole"].update(factory="renalplan.files:write_text")),
        ("is not a class derived from Module",),
    ),
    Fault(
        "the standard library as its segmenter", trainer_json(lambda t: t["segmenter"].update(factory="os:system")),
        ("asks for code of the module 'os'", "--plugin os"),
    ),
    Fault(
        "a phase that leads elsewhere", trainer_json(lambda t: t["networks"].update({"../../evil": t["networks"]["whole"]})),
        ("networks.../../evil", "should match pattern"),
    ),
    Fault("no module in a path", trainer_json(lambda t: t["segmenter"].update(factory=":x")), ("is not of the form",)),
    Fault("an unknown argument of its network", argument(evil=1), ("refuses its arguments",)),
    Fault("a network larger than any memory", argument(features=[10**9] * 3), ("cannot be built",)),
    Fault("a network of words", argument(features="many"), ("refuses its arguments",)),
]  # fmt: skip

STORE_FAULTS = [
    Fault("cut off", making.truncate, ("run renalplan_plan_and_preprocess again",)),
    Fault("no bytes at all", making.content(b""), ("run renalplan_plan_and_preprocess again",)),
    Fault("a pickle that runs code", pickled, ("run renalplan_plan_and_preprocess again",)),
]


def expression(path: Path) -> None:
    """A lazy expression, which computes when it is read."""
    operand = blosc2.asarray(np.ones((1, 4, 4, 4)), urlpath="operand.b2nd", mode="w")
    path.unlink()
    (operand + 1).save(urlpath=str(path))


def objects(path: Path) -> None:
    """An array of pickled objects."""
    with path.open("wb") as stream:
        np.savez(stream, kidney=np.array([Bomb()], dtype=object))


def checkpoint() -> None:
    """A phase that was interrupted."""
    (FOLD / "finished.json").unlink()
    (FOLD / "whole/checkpoint.pt").write_bytes(b"")
    (FOLD / "whole/model.safetensors").unlink()


def archive() -> None:
    assert cli.export_model(["-o", "model.zip"]) == 0


Members = dict[str, bytes]


def repacked(
    change: Callable[[Members], Any], *, weights_as: int = ZIP_STORED, sign: bool = True
) -> Callable[[Path], Any]:
    """The model's zip with other members; `sign` has its manifest agree with them."""

    def make(path: Path) -> None:
        with ZipFile(path) as packed:
            members = {name: packed.read(name) for name in packed.namelist()}
        change(members)
        manifest = json.loads(members["manifest.json"])
        if sign:
            manifest["files"] = {
                name: {
                    "size": len(data),
                    "blake2b": hashlib.blake2b(data, digest_size=16).hexdigest(),
                }
                for name, data in members.items()
                if name != "manifest.json"
            }
            members["manifest.json"] = json.dumps(manifest).encode()
        with ZipFile(path, "w") as packed:
            for name, data in members.items():
                method = weights_as if name.endswith(".safetensors") else ZIP_DEFLATED
                packed.writestr(name, data, compress_type=method)

    return make


def member(name: str, data: bytes = b"evil") -> Callable[[Members], Any]:
    return lambda members: members.update({name: data})


def linked(path: Path) -> None:
    """A member that is a symbolic link."""
    with ZipFile(path) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    with ZipFile(path, "w") as packed:
        for name, data in members.items():
            info = ZipInfo(name)
            if name == "plan.json":
                info.external_attr, data = (stat.S_IFLNK | 0o777) << 16, b"/etc/passwd"
            packed.writestr(info, data)


def bombed(path: Path) -> None:
    """A description of 100 MB in 100 kB."""
    repacked(member("plan.json", b" " * 100_000_000))(path)


def lying(path: Path) -> None:
    """A member longer than its entry in the manifest."""
    repacked(member("plan.json", b" " * 1_000_000), sign=False)(path)


def manifest(**values: Any) -> Callable[[Path], Any]:
    """Other entries in its manifest."""

    def change(members: Members) -> None:
        value = json.loads(members["manifest.json"]) | values
        members["manifest.json"] = json.dumps(value).encode()

    return repacked(change)


WEIGHTS_IN_ZIP = "fold_0/whole/model.safetensors"
ARCHIVES = [
    Fault("no bytes at all", making.content(b""), ("not a zip that can be read",)),
    Fault("cut off", making.truncate, ("not a zip that can be read",)),
    Fault("text instead of a zip", making.content(b"PK and so on"), ("not a zip that can be read",)),
    Fault("a member ../evil.json", repacked(member("../evil.json")), ("no file of a model", "nothing was installed")),
    Fault("a member /tmp/evil.json", repacked(member("/tmp/evil.json")), ("no file of a model",)),
    Fault("a member ..\\evil.json", repacked(member("..\\evil.json")), ("no file of a model",)),
    Fault("a member evil.py", repacked(member("evil.py")), ("no file of a model",)),
    Fault("a checkpoint", repacked(member("fold_0/whole/checkpoint.pt")), ("no file of a model",)),
    Fault("a symbolic link", linked, ("plan.json",)),
    Fault("a name that leads elsewhere", manifest(name="../../evil"), ("name: String should match pattern",)),
    Fault("a dataset that leads elsewhere", manifest(dataset=".."), ("dataset: String should match pattern",)),
    Fault("a bomb of 100 MB", bombed, ("plan.json is larger than a description can be",)),
    Fault("a member longer than stated", lying, ("plan.json is longer than its manifest.json says",)),
    Fault("weights that are compressed", repacked(lambda _: None, weights_as=ZIP_DEFLATED), ("is compressed; weights must not be",)),
    Fault("a pickle in place of weights", repacked(member(WEIGHTS_IN_ZIP, pickle.dumps(Bomb()))), ("is damaged",)),
    Fault("no manifest", repacked(lambda m: m.update({"manifest.json": b"[]"}), sign=False), ("manifest.json",)),
    Fault("no plan", repacked(lambda m: m.pop("plan.json")), ("plan.json is missing",)),
    Fault("no weights", repacked(lambda m: m.pop(WEIGHTS_IN_ZIP)), (WEIGHTS_IN_ZIP, "is missing")),
    Fault("other contents than stated", repacked(member("trainer.json", b"{}"), sign=False), ("trainer.json is not what its manifest.json says",)),
]  # fmt: skip


def other_labels() -> None:
    shutil.copytree(MODEL, MODEL.with_name("Other"))
    path = MODEL.with_name("Other") / "dataset.json"
    making.edit_json(path, labels={"background": 0, "tumor": 1})


def rows() -> Iterator[Row]:
    yield from cross("Weights", WEIGHT_FAULTS, WEIGHT_READERS)
    yield from cross("trainer.json that asks for code", CODE, CODE_READERS)
    yield from cross(
        "Stored arrays",
        [
            *STORE_FAULTS,
            Fault("an expression that computes", expression, ("deserialize='safe'", "again")),
        ],
        ARRAY_READERS,
    )
    yield from cross(
        "Stored places",
        [*STORE_FAULTS, Fault("pickled objects", objects, ("delete it", "again"))],
        PLACE_READERS,
    )
    yield from cross(
        "Checkpoints",
        CHECKPOINTS,
        [
            Reader(
                TRAIN.replace("1 1", "1 0"),
                FOLD / "whole/checkpoint.pt",
                status=1,
                prepare=checkpoint,
                lines=0,
            )
        ],
    )
    yield from cross("Archives of models", ARCHIVES, ARCHIVE_READERS)
    yield Row(
        "Models",
        "of other labels than the first",
        f"{PREDICT} -m {MODEL} {MODEL.with_name('Other')}",
        ("Other", "labels"),
        other_labels,
    )
    for name in ("plan.json", "dataset.json", "trainer.json"):
        yield Row(
            "Models",
            f"{name} is missing",
            f"{PREDICT} -m {MODEL}",
            (f"{MODEL}", f"{name} is missing"),
            (MODEL / name).unlink,
        )


CHECKPOINTS = [
    Fault(
        "cut off", making.content(b"PK\x03\x04half"), ("is damaged or not one of ours", "delete it")
    ),
    Fault("a pickle that runs code", pickled, ("is damaged or not one of ours", "delete it")),
    Fault(
        "torch's file that runs code",
        saved_by_torch,
        ("is damaged or not one of ours", "delete it"),
    ),
]
WEIGHT_READERS = [Reader(PREDICT, WEIGHTS, leaves_out=("out/new.nii.gz",))]
CODE_READERS = [
    Reader(PREDICT, MODEL / "trainer.json", leaves_out=("out/new.nii.gz",)),
    Reader("export_model -o out.zip", MODEL / "trainer.json"),
]
ARRAY_READERS = [
    Reader(TRAIN, STORE / "case_1.0.image.b2nd", status=1, writes=("work/results",), lines=0)
]
PLACE_READERS = [
    Reader(TRAIN, STORE / "case_1.0.places.npz", status=1, writes=("work/results",), lines=0)
]
ARCHIVE_READERS = [
    Reader("install_model model.zip --workspace elsewhere", Path("model.zip"), prepare=archive, leaves_out=("evil", "evil.json", "elsewhere/results/Dataset001_Tiny/UNet")),
]  # fmt: skip
