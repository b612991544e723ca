"""OVeNet, the Offset Vector Network for semantic segmentation: network, method and study in a dozen thin modules."""

import atexit
import gc

# PyTorch makes a million objects that live as long as the process. Looking for garbage among them while it is imported,
# and once more at the very end, would take a quarter of the time of a short run.
_collecting = gc.isenabled()
gc.disable()
import torch  # noqa: E402, F401

gc.freeze()
if _collecting:
    gc.enable()
atexit.register(gc.freeze)
