"""PANet in 3-D: prototypes with alignment regularisation, what CPNet started from.

Sources:
    [PANet] K. Wang et al., PANet: few-shot image semantic segmentation with prototype alignment,
        ICCV 2019.
    [CPNet] Cycle Prototype Network, table 1, which compares with it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from renalplan.trainers.cpnet import CPNet, CPNetSettings
from renalplan.trainers.cycle import Reverse
from renalplan.trainers.settings import TrainerSettings


class PANetSettings(CPNetSettings):
    """[PANet]'s choices: an encoder alone, hard labels in the alignment, no unlabelled scans."""

    fdfe: bool = Field(default=False, description="true adds CPNet's fine decoding")
    bwsm: Literal["auto", "true", "false"] = Field(
        default="false", description="pseudo labels of unlabelled scans, as in CPNet"
    )
    reverse: Reverse = Field(
        default="hard", description="what the query gives back in the alignment"
    )


class PANet(CPNet):
    """Prototypes with alignment regularisation: what [CPNet] started from and compares with."""

    Settings: ClassVar[type[TrainerSettings]] = PANetSettings
    settings: PANetSettings
