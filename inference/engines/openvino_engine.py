"""OpenVINO: the same network on a CPU, two to four times faster than PyTorch.

A module is converted once; the conversion is kept beside its weights (plain data: a graph in XML
and its numbers) and used again as long as weights, patch size and versions are the same.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from renalplan.errors import RenalplanError
from renalplan.files import atomic_folder, content_hash, remove_leftovers, value_hash
from renalplan.geometry import Shape
from renalplan.inference.engines.engine import Engine
from renalplan.interruption import finishing_first
from renalplan.locks import hold
from renalplan.parallel import usable_cores

if TYPE_CHECKING:
    import openvino as ov

FOLDER, MODEL = "openvino", "network.xml"
LARGEST_UNIT = 32  # voxels; no network here halves an axis more than five times
LARGEST_ERROR = 0.01  # of the logits' spread; fp32 conversions come to about 1e-4
HINTS = {"fp32": "f32", "bf16": "bf16"}
log = logging.getLogger(__name__)


class ConversionError(RenalplanError):
    """OpenVINO does not take this network, or says something else than PyTorch."""


def is_installed() -> bool:
    """Whether the extra `renalplan[openvino]` is there."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoEngine(Engine):
    """Runs a converted network, compiled for the largest batch it has met; smaller ones are padded.

    Args:
        network: In evaluation mode, on the CPU.
        channels: Its input channels.
        patch: Its input's size.
        precision: fp32 or bf16.
        weights: The network's weights file: the conversion is kept beside it. None keeps nothing.

    Raises:
        ConversionError: see there.
    """

    def __init__(
        self,
        network: nn.Module,
        channels: int,
        patch: Shape,
        *,
        precision: str = "fp32",
        weights: Path | None = None,
    ) -> None:
        self.device = torch.device("cpu")
        self._model = _converted(network, channels, patch, weights)
        self._hint = HINTS[precision]
        self._batch = 0
        self._request: Any = None

    def __call__(self, patches: Tensor) -> Tensor:
        """See `Engine`."""
        count = len(patches)
        if count > self._batch:
            self._compile(tuple(patches.shape))
        elif count < self._batch:  # a folder of boxes ends in smaller batches all the time
            patches = torch.cat(
                [patches, patches.new_zeros(self._batch - count, *patches.shape[1:])]
            )
        outputs = self._request.infer([patches.numpy()], share_inputs=True)
        # the request's own memory is written anew by the next call
        return torch.from_numpy(np.array(outputs[0][:count]))

    def _compile(self, shape: tuple[int, ...]) -> None:
        threads = torch.get_num_threads()
        settings = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "INFERENCE_NUM_THREADS": threads,
            # processes that share a machine would all be pinned to its first cores
            "ENABLE_CPU_PINNING": threads >= usable_cores(),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        model = self._model.clone()
        model.reshape(list(shape))
        self._request = None  # one compilation's memory at a time
        compiled = _core().compile_model(model, "CPU", settings)
        self._request, self._batch = compiled.create_infer_request(), shape[0]


def openvino() -> ModuleType:
    """OpenVINO, without the package by which it tells its makers what it is used for.

    It would send a message over the network at every import and conversion, and ask nobody.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as ov

    return ov


@lru_cache(maxsize=1)
def _core() -> ov.Core:
    return openvino().Core()


def _converted(network: nn.Module, channels: int, patch: Shape, weights: Path | None) -> ov.Model:
    """From the folder beside the weights, or made now and put there."""
    if weights is None:
        return _convert(network, channels, patch)
    ov = openvino()
    key = value_hash(
        [ov.__version__, torch.__version__, content_hash(weights), str(network), channels, patch]
    )
    folder = weights.parent / FOLDER / key[:16]
    if (folder / MODEL).is_file():
        try:
            return _core().read_model(folder / MODEL)
        except RuntimeError as problem:
            log.warning("%s cannot be read and is made again: %s", folder, problem)
    model = _convert(network, channels, patch)
    try:
        what = f"{folder.parent} is being written"
        with hold(folder.parent, "conversion", what):
            remove_leftovers(folder.parent)
            with atomic_folder(folder) as temporary:
                ov.save_model(model, temporary / MODEL, compress_to_fp16=False)
    except (OSError, RuntimeError, RenalplanError) as problem:  # a folder of somebody else's
        log.info("the converted network is not kept for next time: %s", problem)
    return model


def _convert(network: nn.Module, channels: int, patch: Shape) -> ov.Model:
    """The module as OpenVINO's graph for patches of any size, compared with it on one.

    It is traced with a patch much smaller than its own, which takes that much less memory, and
    compared with one of another size; a network that cannot do this is traced with its own.
    """
    module: Any = network
    module = module.to(memory_format=torch.contiguous_format)
    small, other = _smaller(patch)
    try:
        return _trace(module, channels, small, other)
    except ConversionError as problem:
        if small == patch:
            raise
        log.debug("traced with its own patch: %s", problem)
    return _trace(module, channels, patch, patch)


def _smaller(patch: Shape) -> tuple[Shape, Shape]:
    """Two sizes that a network with poolings takes if it takes this one."""
    units = [min(n & -n, LARGEST_UNIT) for n in patch]
    small, other = (
        tuple(min(n, times * unit) for n, unit in zip(patch, units, strict=True))
        for times in (2, 3)
    )
    return small, other  # type: ignore[return-value]


def _trace(module: nn.Module, channels: int, traced: Shape, compared: Shape) -> ov.Model:
    ov = openvino()
    generator = torch.Generator().manual_seed(0)
    example, other = (
        torch.randn(1, channels, *size, generator=generator) for size in (traced, compared)
    )
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, about shapes that never change
            with finishing_first():
                model = ov.convert_model(
                    module, example_input=example, input=[-1, channels, *(-1 for _ in traced)]
                )
            expected = module(other)
            trial = model.clone()
            trial.reshape(list(other.shape))
            found = _core().compile_model(trial, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(
                [other.numpy()]
            )[0]
    except Exception as problem:  # whatever its frontend cannot translate
        raise ConversionError(f"{type(problem).__name__}: {str(problem)[:200]}") from problem
    if found.shape != tuple(expected.shape):
        raise ConversionError(f"its logits are {found.shape}, not {tuple(expected.shape)}")
    error = float((torch.from_numpy(found) - expected).abs().max())
    spread = float(expected.max() - expected.min())
    if not error <= LARGEST_ERROR * max(spread, 1e-3):
        raise ConversionError(f"its logits differ by {error:.2g} of a spread of {spread:.2g}")
    return model
