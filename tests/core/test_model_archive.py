"""A model as a zip: all that prediction needs goes out, and nothing else ever comes in."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import pytest

from renalplan.errors import ModelError, UsageError
from renalplan.files import content_hash, write_json
from renalplan.model_archive import MANIFEST, pack_model, unpack_model
from renalplan.model_folder import WEIGHTS, ModelFolder
from renalplan.postprocessing import POSTPROCESSING, MinimumVolume, Postprocessing

Edit = Callable[[dict[str, bytes]], None]


@pytest.fixture
def archive(model: ModelFolder, tmp_path: Path) -> Path:
    return pack_model(model, tmp_path / "model.zip", ["0", "10"], ["segmentation"])


def members(path: Path) -> dict[str, bytes]:
    with ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repack(path: Path, contents: dict[str, bytes], *, sign: bool = False) -> Path:
    """Another zip of these contents; `sign` makes the manifest agree with them."""
    if sign:
        manifest = json.loads(contents[MANIFEST])
        for name in manifest["files"]:
            if name in contents:
                scratch = path.with_name("scratch")
                scratch.write_bytes(contents[name])
                size = len(contents[name])
                manifest["files"][name] = {"size": size, "blake2b": content_hash(scratch)}
        contents = contents | {MANIFEST: json.dumps(manifest).encode()}
    other = path.with_name("other.zip")
    with ZipFile(other, "w") as archive:
        for name, data in contents.items():
            method = ZIP_STORED if name.endswith(WEIGHTS) else ZIP_DEFLATED
            archive.writestr(ZipInfo(name), data, compress_type=method)
    return other


def refused(path: Path, tmp_path: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        unpack_model(path, tmp_path / "results")
    assert not list((tmp_path / "results").rglob("*.json"))
    assert not list(tmp_path.rglob("evil*"))
    assert not list((tmp_path / "results").rglob(".tmp-*"))


def test_a_model_comes_back_whole(model: ModelFolder, archive: Path, tmp_path: Path) -> None:
    found = unpack_model(archive, tmp_path / "results")
    assert found.path == tmp_path / "results" / model.plan.dataset / "model"
    assert (found.plan, found.record, found.description) == (
        model.plan, model.record, model.description
    )  # fmt: skip
    assert found.finished_folds() == ["0", "10"]
    for name in members(archive):
        if name != MANIFEST:
            assert (found.path / name).read_bytes() == (model.path / name).read_bytes()
    found.load_network("segmentation", "10")


def test_rules_go_along_and_are_checked_on_the_way_in(
    model: ModelFolder, archive: Path, tmp_path: Path
) -> None:
    structure = next(iter(model.scheme.foreground))
    rules = Postprocessing(rules=(MinimumVolume(structure=structure, ml=2),))
    write_json(model.path / POSTPROCESSING, rules)
    sent = pack_model(ModelFolder.open(model.path), archive, ["0"], ["segmentation"])
    assert unpack_model(sent, tmp_path / "results", name="ruled").postprocessing == rules
    wrong = members(sent) | {POSTPROCESSING: b'{"rules": [{"rule": "run", "code": "1"}]}'}
    with pytest.raises(ModelError, match=r"postprocessing.json: rules.0"):
        unpack_model(repack(sent, wrong, sign=True), tmp_path / "results")
    assert not (tmp_path / "results" / model.plan.dataset / "model").exists()


def test_only_what_prediction_needs_goes_along(model: ModelFolder, archive: Path) -> None:
    (model.fold_folder("0") / "segmentation" / "checkpoint.pt").write_bytes(b"large")
    (model.fold_folder("0") / "validation").mkdir()
    (model.fold_folder("0") / "validation" / "case.nii.gz").write_bytes(b"a patient")
    again = pack_model(model, archive.with_name("again.zip"), ["0"], ["segmentation"])
    assert set(members(again)) == {
        MANIFEST, "plan.json", "dataset.json", "trainer.json", "fold_0/finished.json",
        "fold_0/segmentation/model.safetensors",
    }  # fmt: skip


def test_no_patient_goes_along(model: ModelFolder, archive: Path, tmp_path: Path) -> None:
    path = model.path / "dataset.json"
    named = json.loads(path.read_text()) | {"patients": {"case_1": "Erika Mustermann"}}
    path.write_text(json.dumps(named))
    again = pack_model(
        ModelFolder.open(model.path), archive.with_name("again.zip"), ["0"], ["segmentation"]
    )
    assert not any(b"Mustermann" in content for content in members(again).values())
    found = unpack_model(again, tmp_path / "results")
    assert (found.scheme, found.description.channels) == (model.scheme, model.description.channels)


def test_the_same_model_gives_the_same_bytes(model: ModelFolder, archive: Path) -> None:
    again = pack_model(model, archive.with_name("again.zip"), ["0", "10"], ["segmentation"])
    assert again.read_bytes() == archive.read_bytes()


def test_missing_weights_are_named_and_no_zip_is_left(model: ModelFolder, tmp_path: Path) -> None:
    (model.fold_folder("0") / "segmentation" / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"fold_0.segmentation.model\.safetensors is missing"):
        pack_model(model, tmp_path / "model.zip", ["0"], ["segmentation"])
    assert not list(tmp_path.glob("*.zip"))


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "/tmp/evil.json",
        "fold_0/../../evil/model.safetensors",
        "..\\evil.json",
        "C:\\evil.json",
        "fold_0/segmentation/evil.pkl",
        "evil.py",
        "fold_0/segmentation/",
        "plan.json\n",
    ],
)
def test_a_name_that_is_no_models_is_refused(archive: Path, tmp_path: Path, name: str) -> None:
    contents = members(archive)
    manifest = json.loads(contents[MANIFEST])
    manifest["files"][name] = {"size": 4, "blake2b": "-"}
    changed = contents | {MANIFEST: json.dumps(manifest).encode(), name: b"evil"}
    refused(repack(archive, changed), tmp_path, "no file of a model")


def test_a_link_is_written_as_the_file_it_would_be_or_refused(
    archive: Path, tmp_path: Path
) -> None:
    other = archive.with_name("link.zip")
    with ZipFile(other, "w") as made:
        for name, data in members(archive).items():
            info = ZipInfo(name)
            if name == "plan.json":
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                data = b"/etc/passwd"
            made.writestr(info, data)
    refused(other, tmp_path, "not what its manifest.json says|longer than")


def _drop(name: str) -> Edit:
    return lambda contents: contents.pop(name) and None  # type: ignore[func-returns-value]


def _set(name: str, data: bytes) -> Edit:
    return lambda contents: contents.update({name: data})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_drop(MANIFEST), "manifest.json is missing"),
        (_drop("plan.json"), "not those of its manifest"),
        (_set("fold_1/finished.json", b"{}"), "not those of its manifest"),
        (_set("plan.json", b"{}"), "not what its manifest.json says"),
        (_set("plan.json", b"x" * 100_000), "longer than its manifest.json says"),
        (_set(MANIFEST, b"no json"), "manifest.json is not JSON"),
        (_set(MANIFEST, b"[" * 100_000), "manifest.json is not JSON"),
        (_set(MANIFEST, b"{}"), "name: Field required"),
    ],
)
def test_contents_that_are_not_the_manifests_are_refused(
    archive: Path, tmp_path: Path, edit: Edit, message: str
) -> None:
    contents = members(archive)
    edit(contents)
    refused(repack(archive, contents), tmp_path, message)


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "a b"])
@pytest.mark.parametrize("key", ["name", "dataset"])
def test_a_manifest_cannot_choose_where_it_lands(
    archive: Path, tmp_path: Path, key: str, name: str
) -> None:
    contents = members(archive)
    manifest = json.loads(contents[MANIFEST]) | {key: name}
    contents[MANIFEST] = json.dumps(manifest).encode()
    refused(repack(archive, contents), tmp_path, f"{key}: String should match pattern")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("plan.json", b"{}", "plan.json: "),
        ("trainer.json", b"not json", "trainer.json is not valid JSON"),
        ("fold_0/segmentation/model.safetensors", b"\x80\x04pickle", "is damaged"),
    ],
)
def test_what_a_model_folder_refuses_an_archive_cannot_bring_in(
    archive: Path, tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    changed = members(archive) | {name: data}
    refused(repack(archive, changed, sign=True), tmp_path, message)


def test_a_network_of_strangers_is_not_built(archive: Path, tmp_path: Path) -> None:
    contents = members(archive)
    record = json.loads(contents["trainer.json"])
    record["networks"]["segmentation"]["factory"] = "antigravity:Network"
    changed = contents | {"trainer.json": json.dumps(record).encode()}
    refused(repack(archive, changed, sign=True), tmp_path, "'antigravity', which is not part of")


def test_compressed_weights_are_refused(archive: Path, tmp_path: Path) -> None:
    other = archive.with_name("bomb.zip")
    with ZipFile(other, "w", ZIP_DEFLATED) as made:
        for name, data in members(archive).items():
            made.writestr(name, data)
    refused(other, tmp_path, "is compressed; weights must not be")


def test_a_file_that_is_no_zip_or_is_cut_short_is_refused(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    for number, data in enumerate((b"", b"PK", whole[: len(whole) // 2], b"x" * 1000)):
        path = tmp_path / f"broken_{number}.zip"
        path.write_bytes(data)
        refused(path, tmp_path, "is not a zip that can be read")


def test_a_flipped_bit_is_noticed(archive: Path, tmp_path: Path) -> None:
    data = bytearray(archive.read_bytes())
    weights = members(archive)["fold_0/segmentation/model.safetensors"]
    data[data.find(weights) + len(weights) - 1] ^= 1
    other = tmp_path / "flipped.zip"
    other.write_bytes(data)
    refused(other, tmp_path, "Bad CRC-32|not what its manifest")


def test_a_model_that_is_there_stays_unless_told(archive: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    first = unpack_model(archive, results)
    (first.path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there already; install under another --name"):
        unpack_model(archive, results)
    assert unpack_model(archive, results, name="second").path.name == "second"
    assert (first.path / "mine.txt").exists()
    unpack_model(archive, results, overwrite=True)
    assert not (first.path / "mine.txt").exists()
    with pytest.raises(UsageError, match="use letters, digits"):
        unpack_model(archive, results, name="../up")
