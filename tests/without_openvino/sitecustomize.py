"""First on the path of processes that tests start: for them OpenVINO is not installed.

Converting a network takes longer than running the tests' small ones; it has tests of its own.
"""

import sys

sys.modules["openvino"] = None  # type: ignore[assignment]
