"""Maps and numbers of uncertainty against their definitions, on the scan's own grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.stats import entropy as scipy_entropy

from renalplan.entropy import entropy
from renalplan.images import read_grid
from renalplan.inference.fields import MeanField, ProbabilityField
from renalplan.inference.options import InferenceOptions
from renalplan.inference.predictor import Predictor
from renalplan.inference.scratch import Scratch
from renalplan.inference.uncertainty import UncertaintyMaps
from renalplan.labels import LabelScheme
from renalplan.model_folder import ModelFolder

CPU = InferenceOptions(device="cpu", engine="torch", precision="fp32", uncertainty=True)
CLASSES = LabelScheme(names=("background", "kidney", "tumor"), values=((0,), (1,), (2,)))
REGIONS = LabelScheme(names=("kidney", "tumor"), values=((1, 2), (2,)), region_values=(1, 2))


@pytest.mark.parametrize("axis", [0, 1])
def test_entropy_is_scipys(axis: int) -> None:
    p = torch.rand(4, 5, 6, dtype=torch.float64).moveaxis(0, axis)
    p[p < 0.2] = 0
    p = p / p.sum(axis, keepdim=True).clamp_min(1e-9)
    expected = scipy_entropy(
        p.numpy() + (p.sum(axis, keepdim=True) == 0).numpy(), base=2, axis=axis
    )
    found = entropy(p, exclusive=True, heads=axis)
    certain = (p.sum(axis) == 0).numpy()
    np.testing.assert_allclose(found.squeeze(axis).numpy()[~certain], expected[~certain])
    each = torch.stack(
        [entropy(torch.stack([q, 1 - q]), exclusive=True)[0] for q in p.unbind(axis)]
    )
    np.testing.assert_allclose(
        entropy(p, exclusive=False, heads=axis).squeeze(axis), each.mean(0), atol=1e-12
    )


@pytest.mark.parametrize("scheme", [CLASSES, REGIONS], ids=["classes", "regions"])
def test_numbers_follow_their_definitions(scheme: LabelScheme) -> None:
    rng = np.random.default_rng(1)
    p = rng.random((scheme.heads, 6, 5, 4)).astype(np.float32)
    p = p / p.sum(0) if not scheme.has_regions else p
    labels = scheme.decide(p)
    maps = UncertaintyMaps((6, 5, 4), scheme, Scratch(1 << 30), networks=1)
    for start, stop in ((0, 2), (2, 5), (5, 6)):
        part = torch.from_numpy(p[:, start:stop])
        maps.add(start, stop, part, None, labels[start:stop])
    record = maps.record("a", (2.0, 1.0, 5.0))
    assert not record.disagreement_known
    dice = []
    for name, values in scheme.foreground.items():
        head, mask = scheme.names.index(name), np.isin(labels, values)
        dice.append(2 * p[head][mask].sum() / (p[head].sum() + mask.sum()))
        found = record.structures[name]
        assert found.expected_dice == pytest.approx(dice[-1], abs=1e-4)
        assert found.volume_ml == pytest.approx(mask.sum() * 0.01)
        assert found.expected_volume_ml == pytest.approx(p[head].sum() * 0.01, abs=1e-3)
    assert record.score == pytest.approx(min(dice), abs=1e-4)


def test_what_is_not_found_is_as_certain_as_its_largest_probability() -> None:
    p = torch.zeros(3, 1, 2, 2)
    p[0], p[1] = 0.98, 0.01
    p[:, 0, 0, 0] = torch.tensor([0.2, 0.7, 0.1])
    p[2, 0, 1, 1] = 0.4
    p[0, 0, 1, 1] = 0.6
    labels = CLASSES.decide(p.numpy())
    maps = UncertaintyMaps((1, 2, 2), CLASSES, Scratch(1 << 30), networks=1)
    maps.add(0, 1, p, None, labels)
    structures = maps.record("a", (1.0, 1.0, 1.0)).structures
    assert structures["tumor"].expected_dice == pytest.approx(0.6)
    assert structures["tumor"].volume_ml == 0


@pytest.mark.parametrize(("held", "low", "high"), [(20, 0.0, 0.1), (10, 0.6, 0.7), (0, 0.95, 1.0)])
def test_what_every_patient_has_is_hardly_absent(held: int, low: float, high: float) -> None:
    p = torch.zeros(3, 1, 2, 2)
    p[0] = 1
    share = (held + 1) / 22
    maps = UncertaintyMaps(
        (1, 2, 2), CLASSES, Scratch(1 << 30), networks=1, presence={"kidney": 0.0, "tumor": share}
    )
    maps.add(0, 1, p, None, CLASSES.decide(p.numpy()))
    record = maps.record("a", (1.0, 1.0, 1.0))
    assert low < record.structures["tumor"].expected_dice < high
    assert record.structures["kidney"].expected_dice == 1
    assert record.score == record.structures["tumor"].expected_dice


class Fixed(ProbabilityField):
    def __init__(self, p: torch.Tensor, disagreement: torch.Tensor | None) -> None:
        self.p, self.d = p, disagreement
        self.shape, self.heads = tuple(p.shape[1:]), len(p)  # type: ignore[assignment]

    def slab(self, start: int, stop: int) -> torch.Tensor:
        return self.p[:, start:stop]

    def detailed(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.slab(start, stop), None if self.d is None else self.d[start:stop]


@pytest.mark.parametrize("exclusive", [True, False])
def test_models_of_several_networks_disagree_as_one_ensemble_of_all(exclusive: bool) -> None:
    """The chain rule of mutual information: inside the models and between them."""
    logits = 2 * torch.randn(4, 3, 2, 3, 4, dtype=torch.float64)
    each = logits.softmax(1) if exclusive else logits.sigmoid()

    def information(p: torch.Tensor) -> torch.Tensor:
        inner = torch.stack([entropy(q, exclusive=exclusive)[0] for q in p]).mean(0)
        return entropy(p.mean(0), exclusive=exclusive)[0] - inner

    members: list[ProbabilityField] = [
        Fixed(pair.mean(0), information(pair)) for pair in (each[:2], each[2:])
    ]
    field = MeanField(members, exclusive=exclusive)
    mean, found = field.detailed(0, 2)
    assert found is not None
    torch.testing.assert_close(mean, each.mean(0).float())
    torch.testing.assert_close(found, information(each).float(), atol=1e-5, rtol=1e-4)
    unknown = MeanField([members[0], Fixed(each[0], None)], exclusive=exclusive)
    assert unknown.detailed(0, 2)[1] is None


@pytest.mark.parametrize("folds", [("0",), ("0", "1")])
def test_maps_lie_on_the_scans_grid_and_a_rerun_keeps_them(
    make_model: Callable[..., ModelFolder],
    write_scan: Callable[..., np.ndarray],
    tmp_path: Path,
    folds: tuple[str, ...],
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz", turned=True)
    model = make_model(folds=folds)
    predictor = Predictor.from_model(model, None, CPU)
    out = tmp_path / "out"
    report = predictor.predict_folder(tmp_path / "in", out, workers=0)
    assert list(report.done) == ["a"]
    written = sorted(path.name for path in (out / "uncertainty").iterdir())
    maps = ["a_disagreement.nii.gz", "a_entropy.nii.gz"][2 - len(folds) :]
    assert written == sorted(["a.json", *maps])
    grid = read_grid(tmp_path / "in" / "a_0000.nii.gz")
    for name in maps:
        assert read_grid(out / "uncertainty" / name).differences(grid) == []
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "uncertainty" / "a_entropy.nii.gz")))
    assert found.dtype == np.float32
    assert 0 < found.max() <= 1
    record = json.loads((out / "uncertainty" / "a.json").read_text())
    assert record["disagreement_known"] == (len(folds) > 1)
    assert 0.5 < record["score"] <= 1
    again = Predictor.from_model(model, None, CPU).predict_folder(tmp_path / "in", out, workers=0)
    assert again.kept == ["a"]
    (out / "uncertainty" / "a.json").unlink()
    again = Predictor.from_model(model, None, CPU).predict_folder(tmp_path / "in", out, workers=0)
    assert list(again.done) == ["a"]
    plain = replace(CPU, uncertainty=False)
    labels = Predictor.from_model(model, None, plain).predict_folder(
        tmp_path / "in", tmp_path / "plain", workers=0
    )
    assert list(labels.done) == ["a"]
    assert not (tmp_path / "plain" / "uncertainty").exists()
    same = [(folder / "a.nii.gz").read_bytes() for folder in (out, tmp_path / "plain")]
    assert same[0] == same[1]
