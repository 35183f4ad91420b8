"""What the papers compared, and how each row is run here: data only, a file a paper."""

from papers.bisc import BISC
from papers.coarse_to_fine import COARSE_TO_FINE
from papers.cpnet import CPNET
from papers.densebiasnet import DENSEBIASNET
from papers.group import GROUP_TRAINING
from papers.paper import Arm, Paper

PAPERS = {
    "densebiasnet": DENSEBIASNET,
    "bisc": BISC,
    "cpnet": CPNET,
    "group": GROUP_TRAINING,
    "coarse_to_fine": COARSE_TO_FINE,
}

__all__ = ["PAPERS", "Arm", "Paper"]
