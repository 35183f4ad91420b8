"""A model goes to another machine as one file, and predicts there what it predicted here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import SimpleITK as sitk

Run = Callable[[str], Any]
IMAGES = Path("work/raw/Dataset001_Tiny/imagesTs")
MODEL = Path("work/results/Dataset001_Tiny/UNet")


def _segmentation(folder: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(f"{folder}/new.nii.gz"))


def test_out_and_in_again(here: Path, run: Run) -> None:
    sent = run("export_model -d 1 -tr UNet")
    assert (sent.status, sent.err) == (0, "")
    zipped = here / "Dataset001_Tiny__UNet.zip"
    assert sent.out.startswith(f"{zipped.name}: ")
    assert "renalplan_install_model Dataset001_Tiny__UNet.zip" in sent.out
    with ZipFile(zipped) as archive:
        assert not [n for n in archive.namelist() if "validation" in n or "log" in n]
    installed = run(f"install_model {zipped.name} --workspace elsewhere")
    assert installed.status == 0
    there = Path("elsewhere/results/Dataset001_Tiny/UNet")
    assert f"-m {there}" in installed.out
    assert run(f"predict -i {IMAGES} -o out_here -m {MODEL} --device cpu").status == 0
    assert run(f"predict -i {IMAGES} -o out_there --workspace elsewhere --device cpu").status == 0
    np.testing.assert_array_equal(_segmentation("out_here"), _segmentation("out_there"))


def test_a_segmenter_that_is_none_is_not_installed(here: Path, run: Run) -> None:
    assert run("export_model -o model.zip").status == 0
    with ZipFile("model.zip") as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    trainer = json.loads(held["trainer.json"])
    trainer["segmenter"]["factory"] = "os:system"
    held["trainer.json"] = json.dumps(trainer).encode()
    manifest = json.loads(held["manifest.json"])
    digest = hashlib.blake2b(held["trainer.json"], digest_size=16).hexdigest()
    manifest["files"]["trainer.json"] = {"size": len(held["trainer.json"]), "blake2b": digest}
    held["manifest.json"] = json.dumps(manifest).encode()
    with ZipFile("bad.zip", "w") as archive:
        for name, content in held.items():
            archive.writestr(name, content)
    bad = run("install_model bad.zip --workspace elsewhere")
    assert bad.status == 2
    assert "asks for code of the module 'os', which is not part of renalplan" in bad.err
    assert not list(Path("elsewhere").rglob("trainer.json"))


def test_what_cannot_be_sent_or_installed_is_said_in_a_sentence(here: Path, run: Run) -> None:
    assert run("export_model -d 1 -o model.zip").status == 0
    again = run("export_model -d 1 -o model.zip")
    assert (again.status, len(again.err.splitlines())) == (2, 1)
    assert "model.zip is there already" in again.err
    assert run("export_model -d 1 -o model.zip --overwrite").status == 0
    assert "must end in .zip" in run("export_model -d 1 -o model.tar").err
    assert "fold 3 is not finished" in run("export_model -d 1 -o other.zip -f 3").err
    there = run("install_model model.zip")
    assert there.status == 2
    assert "is there already; install under another --name" in there.err
    assert run("install_model model.zip --name second").status == 0
    assert "nothing.zip does not exist" in run("install_model nothing.zip").err
    Path("bad.zip").write_bytes(b"PK no zip")
    bad = run("install_model bad.zip")
    assert (bad.status, len(bad.err.splitlines())) == (2, 1)
    assert "bad.zip is not a zip" in bad.err
    assert not Path("other.zip").exists()
