"""A U-Net trained with the focal Tversky loss: missed voxels cost more, hard structures count more.

Sources: [Abraham2019] N. Abraham, N. M. Khan, A novel focal Tversky loss function with improved
    attention U-Net for lesion segmentation, ISBI 2019, arXiv:1810.07842.
"""

from pydantic import Field
from torch import Tensor, nn

from renalplan.labels import LabelScheme
from renalplan.trainers.losses import TargetEncoder
from renalplan.trainers.supervised import SupervisedSettings, SupervisedStage
from renalplan.trainers.unet import UNet


class Settings(SupervisedSettings):
    alpha: float = Field(default=0.7, ge=0, le=1, description="weight of missed voxels")
    power: float = Field(default=0.75, gt=0, le=1, description="below 1: hard structures first")


class FocalTversky(nn.Module):
    def __init__(self, scheme: LabelScheme, alpha: float, power: float) -> None:
        super().__init__()
        self.encoder, self.alpha, self.power = TargetEncoder(scheme), alpha, power

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        target, mask = self.encoder(labels)  # (B, heads, Z, Y, X); mask is None if all is known
        p = logits.float().sigmoid() if self.encoder.scheme.has_regions else logits.softmax(1)
        terms = (p * target, (1 - p) * target, p * (1 - target))
        hit, missed, extra = ((t if mask is None else t * mask).sum((2, 3, 4)) for t in terms)
        index = (hit + 1) / (hit + self.alpha * missed + (1 - self.alpha) * extra + 1)
        return ((1 - index).clamp_min(1e-6) ** self.power).mean()  # steep at 0: stay off it


class FocalTverskyUNet(UNet):
    Settings = Settings

    class Stage(SupervisedStage):
        def criterion_for(self, scheme: LabelScheme) -> nn.Module:
            return FocalTversky(scheme, self.settings.alpha, self.settings.power)
