"""What the papers compared, and how each row is run here: data only, a file a paper."""

from papers.bisc import BISC
from papers.densebiasnet import DENSEBIASNET
from papers.group import GROUP_TRAINING
from papers.paper import Arm, Paper

PAPERS = {"densebiasnet": DENSEBIASNET, "bisc": BISC, "group": GROUP_TRAINING}

__all__ = ["PAPERS", "Arm", "Paper"]
