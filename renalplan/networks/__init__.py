"""Networks by name. Importing this package costs nothing: torch comes with the first name used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from renalplan.networks.autoencoder import Autoencoder, Encoder
    from renalplan.networks.densebiasnet import DenseBiasNet
    from renalplan.networks.fdfe import FDFE
    from renalplan.networks.longskip import LongSkipFCN
    from renalplan.networks.prototypes import PrototypeNetwork
    from renalplan.networks.scunet import SCUNet
    from renalplan.networks.unet import UNet

__all__ = [
    "FDFE",
    "Autoencoder",
    "DenseBiasNet",
    "Encoder",
    "LongSkipFCN",
    "PrototypeNetwork",
    "SCUNet",
    "UNet",
]

_HOMES = {
    "Autoencoder": "renalplan.networks.autoencoder",
    "DenseBiasNet": "renalplan.networks.densebiasnet",
    "Encoder": "renalplan.networks.autoencoder",
    "FDFE": "renalplan.networks.fdfe",
    "LongSkipFCN": "renalplan.networks.longskip",
    "PrototypeNetwork": "renalplan.networks.prototypes",
    "SCUNet": "renalplan.networks.scunet",
    "UNet": "renalplan.networks.unet",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
