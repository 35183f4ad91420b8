"""OpenVINO says what PyTorch says, for every network we ship; what it cannot run, PyTorch runs."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from renalplan.errors import UsageError
from renalplan.inference.engines import choice, openvino_engine, precision
from renalplan.inference.engines.choice import choose_engine, make_engine
from renalplan.inference.engines.openvino_engine import FOLDER, OpenVinoEngine
from renalplan.inference.engines.precision import choose_precision, multiplies_bf16
from renalplan.inference.engines.torch_engine import TorchEngine
from renalplan.inference.options import InferenceOptions
from renalplan.networks import FDFE, DenseBiasNet, SCUNet
from renalplan.networks.unet import UNet

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests go without it: see tests/conftest.py."""
    monkeypatch.setattr(choice, "is_installed", openvino_engine.is_installed)


PATCH = (16, 32, 16)


def u_net(dims: int = 3) -> UNet:
    kernel = [3, 3, 3] if dims == 3 else [1, 3, 3]
    stride = [2, 2, 2] if dims == 3 else [1, 2, 2]
    return UNet(
        features=[4, 8, 16], strides=[[1, 1, 1], stride, stride], kernels=[kernel] * 3,
        kind="plain", convs_per_stage=2, deep_supervision=True, dims=3, in_channels=1, heads=3,
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "UNet": (u_net, PATCH),
    "UNet 2-D": (lambda: u_net(2), (1, 32, 16)),
    "DenseBiasNet": (lambda: DenseBiasNet(1, 3), PATCH),
    "SCUNet": (lambda: SCUNet(1, 3), PATCH),
    "FDFE": (lambda: FDFE(1), PATCH),
}


def logits(output: Tensor | list[Tensor]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_openvino_says_what_pytorch_says(name: str) -> None:
    make, patch = NETWORKS[name]
    torch.manual_seed(4)
    network = make().eval()
    patches = torch.randn(2, 1, *patch)
    with torch.no_grad():
        expected = logits(network(patches))
    engine = OpenVinoEngine(network, 1, patch)
    found = engine(patches)
    spread = float(expected.max() - expected.min())
    assert float((found - expected).abs().max()) < 1e-3 * spread
    # smaller batches are padded, larger ones compiled; earlier results are not written over
    assert torch.allclose(engine(patches[:1]), found[:1], atol=1e-4 * spread)
    assert torch.allclose(engine(patches[[0, 1, 0]])[2:], found[:1], atol=1e-4 * spread)
    kept = found.clone()
    engine(torch.zeros_like(patches))
    assert torch.equal(found, kept)


@pytest.mark.parametrize(("cores", "pinned"), [(1, True), (2, False)])
def test_a_process_that_has_not_all_cores_is_pinned_to_none(
    monkeypatch: pytest.MonkeyPatch, cores: int, pinned: bool
) -> None:
    """Two of them would sit on the same core."""
    monkeypatch.setattr(openvino_engine, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    engine = OpenVinoEngine(u_net().eval(), 1, PATCH)
    engine(torch.zeros(1, 1, *PATCH))
    compiled = engine._request.get_compiled_model()
    assert compiled.get_property("ENABLE_CPU_PINNING") is pinned


@pytest.mark.parametrize("name", NETWORKS)
def test_a_conversion_is_traced_with_a_small_patch(name: str) -> None:
    """What conversion takes must not depend on the patch: memory limits forecast none of it."""
    make, patch = NETWORKS[name]
    torch.manual_seed(4)
    network = make().eval()
    seen: list[tuple[int, ...]] = []
    network.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[2:])))
    wide = (48 if patch[0] > 1 else 1, 80, 80)
    engine = OpenVinoEngine(network, 1, wide)
    assert max(max(size) for size in seen) <= 48
    patches = torch.randn(1, 1, *wide)
    with torch.no_grad():
        expected = logits(network(patches))
    spread = float(expected.max() - expected.min())
    assert float((engine(patches) - expected).abs().max()) < 1e-3 * spread


class Fixed(nn.Module):
    """Knows its patch."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 2, 24, 24, 24))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.place


def test_a_network_of_one_size_is_traced_with_it() -> None:
    network = Fixed().eval()
    patches = torch.randn(1, 1, 24, 24, 24)
    engine = OpenVinoEngine(network, 1, (24, 24, 24))
    assert torch.allclose(engine(patches), network(patches), atol=1e-5)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_bfloat16_gives_the_same_labels(engine: str) -> None:
    """Of a network without training, whose logits lie close; trained ones: tests/end_to_end."""
    torch.manual_seed(5)
    network = u_net().eval()
    with torch.no_grad():
        network.outputs[-1].weight.mul_(20)
    patches = torch.nn.functional.interpolate(torch.randn(1, 1, 4, 8, 4), PATCH, mode="trilinear")
    labels = []
    for name in ("fp32", "bf16"):
        run = make_engine(network, 1, PATCH, engine=engine, device=CPU, precision=name)
        found = run(patches)
        assert found.dtype == torch.float32
        labels.append(found.argmax(1))
    assert float((labels[0] == labels[1]).float().mean()) >= 0.99


class Unsteady(nn.Module):
    """Answers otherwise each time, so that no conversion can be right."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.rand_like(x)], 1)


def test_a_conversion_that_says_something_else_is_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        run = make_engine(
            Unsteady().eval(), 1, PATCH, engine="openvino", device=CPU, precision="fp32"
        )
    assert isinstance(run, TorchEngine)
    assert "OpenVINO does not run this network, PyTorch does" in caplog.text


def test_a_conversion_is_kept_beside_its_weights_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "model.safetensors"
    conversions = []
    convert = openvino_engine._convert

    def counted(*arguments: object) -> object:
        conversions.append(arguments)
        return convert(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(openvino_engine, "_convert", counted)
    patches = torch.randn(1, 1, *PATCH)

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        network = u_net().eval()
        save_file(network.state_dict(), weights)
        return OpenVinoEngine(network, 1, PATCH, weights=weights)(patches)

    first = run(1)
    assert torch.equal(run(1), first)
    assert len(conversions) == 1
    assert not torch.equal(run(2), first)
    assert len(conversions) == 2
    # what cannot be read is made again
    for file in (tmp_path / FOLDER).rglob("*.xml"):
        file.write_text("<net")
    assert torch.equal(run(1), first)
    assert len(conversions) == 3


def test_a_model_folder_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "model.safetensors"
    network = u_net().eval()
    save_file(network.state_dict(), weights)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(openvino_engine, "atomic_folder", refuse)
    patches = torch.randn(1, 1, *PATCH)
    assert OpenVinoEngine(network, 1, PATCH, weights=weights)(patches).shape == (1, 3, *PATCH)
    assert not (tmp_path / FOLDER).exists()


QUIETLY = """
import sys
import torch
from renalplan.inference.engines.openvino_engine import OpenVinoEngine
OpenVinoEngine(torch.nn.Conv3d(1, 2, 3, padding=1).eval(), 1, (8, 8, 8))
print([name for name in sys.modules if name.startswith("openvino_telemetry.")])
"""


def test_openvino_tells_nobody_what_it_is_used_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert version("openvino-telemetry")  # it is installed with OpenVINO
    monkeypatch.delenv("PYTHONPATH")
    ran = subprocess.run(
        [sys.executable, "-c", QUIETLY], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "[]\n"


def test_auto_is_openvino_on_a_cpu_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_engine("auto", CPU) == "openvino"
    assert choose_engine("auto", torch.device("cuda")) == "torch"
    with pytest.raises(UsageError, match=r"runs on the CPU, not on cuda; use --device cpu"):
        choose_engine("openvino", torch.device("cuda"))
    monkeypatch.setattr(choice, "is_installed", lambda: False)
    assert choose_engine("auto", CPU) == "torch"
    with pytest.raises(UsageError, match=r"pip install \"renalplan\[openvino\]\""):
        choose_engine("openvino", CPU)
    with pytest.raises(UsageError, match="--engine tensorrt is not known"):
        choose_engine("tensorrt", CPU)


def test_precision_follows_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags : fpu avx2 avx512f\n")
    assert not multiplies_bf16(cpuinfo)
    cpuinfo.write_text("processor : 0\nflags : fpu avx512f avx512_bf16\n")
    assert multiplies_bf16(cpuinfo)
    assert not multiplies_bf16(tmp_path / "missing")
    for there, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(precision, "multiplies_bf16", lambda there=there: there)
        assert choose_precision("auto", CPU) == expected
    assert choose_precision("auto", torch.device("cuda")) == "fp16"
    assert choose_precision("auto", torch.device("mps")) == "fp32"
    assert choose_precision("fp32", torch.device("cuda")) == "fp32"
    for name, device, message in (
        ("int8", CPU, "--precision int8 is not known"),
        ("fp16", CPU, "a CPU takes fp32 or bf16"),
        ("bf16", torch.device("mps"), "not supported with --device mps"),
    ):
        with pytest.raises(UsageError, match=message):
            choose_precision(name, device)


def test_options_are_checked_before_anything_is_loaded() -> None:
    InferenceOptions(device="cpu").check()
    for values in ({"engine": "x"}, {"precision": "x"}, {"device": "x"}):
        with pytest.raises(UsageError, match="is not known"):
            InferenceOptions(**({"device": "cpu"} | values)).check()  # type: ignore[arg-type]
