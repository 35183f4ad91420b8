import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from renalplan.errors import ModelError
from renalplan.files import write_json
from renalplan.model_folder import (
    FINISHED,
    WEIGHTS,
    Finished,
    ModelFolder,
    build_network,
)
from renalplan.plan import NetworkSpec


def weights_of(model: ModelFolder) -> Path:
    return model.fold_folder("0") / "segmentation" / WEIGHTS


def test_a_model_comes_back_from_its_folder(model: ModelFolder) -> None:
    found = ModelFolder.open(model.path)
    assert found.plan == model.plan
    assert found.record == model.record
    assert found.description == model.description
    assert found.scheme.names == ("background", "kidney", "tumour")


@pytest.mark.parametrize("name", ["plan.json", "dataset.json", "trainer.json"])
def test_a_missing_file_is_named(model: ModelFolder, name: str) -> None:
    (model.path / name).unlink()
    with pytest.raises(ModelError, match=f"is not a model folder: {name} is missing"):
        ModelFolder.open(model.path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model folder .*gone does not exist"):
        ModelFolder.open(tmp_path / "gone")


def test_an_unknown_key_is_refused(model: ModelFolder) -> None:
    path = model.path / "trainer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"command": "rm"}))
    with pytest.raises(ModelError, match=r"trainer.json: command: Extra inputs"):
        ModelFolder.open(model.path)


def test_finished_folds_come_in_the_order_of_numbers(model: ModelFolder) -> None:
    assert model.finished_folds() == ["0", "10"]
    write_json(model.path / "fold_all" / FINISHED, Finished(phases=(), seconds=0))
    write_json(model.path / "fold_9" / FINISHED, Finished(phases=(), seconds=0))
    assert model.finished_folds() == ["0", "9", "10", "all"]


def test_what_a_scan_probably_holds_is_what_training_cases_held(model: ModelFolder) -> None:
    assert model.presence(["0", "10"]) == {}  # a model of before they were counted
    for fold, held in (("0", 5), ("10", 3)):
        finished = Finished(
            phases=(), seconds=0, training_cases=8, cases_holding={"kidney": 8, "tumour": held}
        )
        write_json(model.fold_folder(fold) / FINISHED, finished)
    assert model.presence(["0", "10"]) == {"kidney": 0.9, "tumour": 0.5}
    assert model.presence(["0"])["tumour"] == 0.6


def test_folds_are_chosen(model: ModelFolder) -> None:
    assert model.choose_folds(None) == ["0", "10"]
    assert model.choose_folds(["10"]) == ["10"]


def test_a_model_on_all_cases_is_taken_if_there_is_no_other(model: ModelFolder) -> None:
    for fold in ("0", "10"):
        (model.fold_folder(fold) / FINISHED).unlink()
    write_json(model.path / "fold_all" / FINISHED, Finished(phases=(), seconds=0))
    assert model.choose_folds(None) == ["all"]


def test_an_unfinished_fold_is_refused(model: ModelFolder) -> None:
    with pytest.raises(ModelError, match="fold 2, 7 is not finished; finished are 0, 10"):
        model.choose_folds(["0", "2", "7"])


def test_a_model_without_a_finished_fold_is_refused(model: ModelFolder) -> None:
    for fold in ("0", "10"):
        (model.fold_folder(fold) / FINISHED).unlink()
    with pytest.raises(ModelError, match="has no finished fold; train one with renalplan_train"):
        model.choose_folds(None)


def test_a_trained_network_is_loaded_for_evaluation(model: ModelFolder) -> None:
    network = model.load_network("segmentation", "0")
    assert not network.training
    assert sum(p.numel() for p in network.parameters()) == 8
    assert network(torch.zeros(1, 1, 4, 4, 4)).shape == (1, 2, 4, 4, 4)


def test_an_unknown_phase_is_refused(model: ModelFolder) -> None:
    with pytest.raises(ModelError, match=r"trainer.json has no network for the phase 'final'"):
        model.load_network("final", "0")


def test_missing_weights_are_named(model: ModelFolder) -> None:
    weights_of(model).unlink()
    with pytest.raises(ModelError, match=r"model.safetensors is missing; train fold 0 again"):
        model.load_network("segmentation", "0")


@pytest.mark.parametrize("part", [0, 4, 50, -1])
def test_damaged_weights_are_refused(model: ModelFolder, part: int) -> None:
    weights_of(model).write_bytes(weights_of(model).read_bytes()[:part])
    with pytest.raises(ModelError, match=r"model.safetensors is damaged"):
        model.load_network("segmentation", "0")


def test_weights_of_another_network_are_refused(model: ModelFolder) -> None:
    small = model.record.networks["segmentation"]
    other = small.model_copy(update={"arguments": small.arguments | {"outputs": 3}})
    save_file(build_network(other, "test").state_dict(), weights_of(model))
    with pytest.raises(ModelError, match=r"model.safetensors does not fit its network: .*size"):
        model.load_network("segmentation", "0")


def test_a_pickle_in_place_of_the_weights_executes_nothing(model: ModelFolder, bomb: Any) -> None:
    weights_of(model).write_bytes(pickle.dumps(bomb))
    with pytest.raises(ModelError, match=r"model.safetensors is damaged"):
        model.load_network("segmentation", "0")
    torch.save(bomb, weights_of(model))
    with pytest.raises(ModelError, match=r"model.safetensors is damaged"):
        model.load_network("segmentation", "0")
    assert not bomb.marker.exists()


@pytest.mark.parametrize(
    ("factory", "arguments", "sentence"),
    [
        ("os:system", {"command": "true"}, "asks for code of the module 'os'"),
        ("renalplan.files:atomic_file", {"path": "x"}, "is not a class derived from Module"),
        ("renalplan.networks.unet:ConvNorm", {"outputs": 2}, "refuses its arguments"),
        ("renalplan.networks.unet:ConvNorm", {"depth": 2}, "refuses its arguments"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(
    factory: str, arguments: dict, sentence: str
) -> None:
    with pytest.raises(ModelError, match=rf"trainer.json.*{sentence}"):
        build_network(NetworkSpec(factory=factory, arguments=arguments), "trainer.json")
