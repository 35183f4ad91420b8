"""Simulated patients with known truth: contrast CT of the abdomen as a dataset folder.

A seed and an index go in; images, labels and exact numbers come out. In the order of the data:
`anatomy` (with `abdomen`, `kidneys`, `vessels`, `tumors`, `tissue`) draws a patient; `scanner`
chooses voxels; `render` (with `canvas`, `background`, `painter`) makes images and labels; `masks`
(with `inside`) dresses real label maps instead; `dataset` writes the folder.
"""

from renalplan.phantom.case import PhantomCase, Truth, TumorTruth
from renalplan.phantom.dataset import make_phantom_dataset
from renalplan.phantom.make import make_case
from renalplan.phantom.tasks import TASKS

__all__ = ["TASKS", "PhantomCase", "Truth", "TumorTruth", "make_case", "make_phantom_dataset"]
