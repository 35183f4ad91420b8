"""A model's networks, one a fold, made ready to run when they are needed."""

from __future__ import annotations

from torch import nn

from renalplan.geometry import Shape
from renalplan.inference.engines.choice import choose_engine, make_engine
from renalplan.inference.engines.engine import Engine
from renalplan.inference.engines.precision import choose_precision
from renalplan.inference.options import InferenceOptions
from renalplan.model_folder import WEIGHTS, ModelFolder


class FoldNetworks:
    """Loads the networks of some phases and hands out engines for them."""

    def __init__(self, model: ModelFolder, folds: list[str], options: InferenceOptions) -> None:
        self._model = model
        self._folds = folds
        self._options = options
        self._loaded: dict[str, list[nn.Module]] = {}
        self._given: dict[str, list[nn.Module]] = {}
        self._engines: dict[tuple[str, int, Shape], list[Engine]] = {}

    def load(self, phases: tuple[str, ...]) -> None:
        """Read all weights now.

        Raises:
            ModelError: a network is missing, damaged or not trusted.
        """
        for phase in phases:
            if phase not in self._loaded and phase not in self._given:
                self._loaded[phase] = self._read(phase)

    def use(self, phase: str, networks: list[nn.Module]) -> None:
        """Take these, one a fold, instead of the model's own."""
        self._given[phase] = networks

    def engines(self, phase: str, channels: int, patch: Shape) -> list[Engine]:
        """One a fold, for patches of this size."""
        key = (phase, channels, patch)
        if key not in self._engines:
            # an engine may hold the network's numbers in a form of its own: not twice
            networks = self._given.get(phase) or self._loaded.pop(phase, None) or self._read(phase)
            device = self._options.torch_device()
            self._engines[key] = [
                make_engine(
                    network,
                    channels,
                    patch,
                    engine=choose_engine(self._options.engine, device),
                    device=device,
                    precision=choose_precision(self._options.precision, device),
                    weights=self._model.fold_folder(fold) / phase / WEIGHTS,
                )
                for network, fold in zip(networks, self._folds, strict=True)
            ]
        return self._engines[key]

    def _read(self, phase: str) -> list[nn.Module]:
        return [self._model.load_network(phase, fold) for fold in self._folds]
