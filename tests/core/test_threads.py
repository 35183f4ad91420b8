import json
import subprocess
import sys

WITHOUT_TORCH = """
import json, sys
import numpy
from threadpoolctl import threadpool_info
from renalplan.parallel import limit_threads
limit_threads(1)
before = "torch" in sys.modules
import torch
counts = [pool["num_threads"] for pool in threadpool_info()]
print(json.dumps([before, counts, torch.get_num_threads()]))
"""


def test_a_limit_holds_for_what_is_loaded_and_for_what_comes() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True
    )
    before, counts, of_torch = json.loads(ran.stdout)
    assert not before, "PyTorch takes a second to import, and preprocessing has no use for it"
    assert counts
    assert set(counts) == {1}
    assert of_torch == 1


def test_preprocessing_does_without_torch() -> None:
    code = (
        "import sys; import renalplan.planning, renalplan.store_dataset, renalplan.integrity; "
        "import renalplan.planners.fingerprint, renalplan.planners.planner; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
