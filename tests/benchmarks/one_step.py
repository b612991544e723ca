"""Forward, loss and backward of W48 OVeNet at 512x1024 in a process of its own, for `bench.py`: peak memory, gradients.

python tests/benchmarks/one_step.py hrnet|hrnet_ocr [checkpointing]
"""

import hashlib
import json
import resource
import sys
import time

import torch

from ovenet_core.losses import OVeNetLoss
from ovenet_core.ovenet import build

backbone, checkpointing = sys.argv[1], "checkpointing" in sys.argv[2:]
torch.set_num_threads(2)
torch.manual_seed(0)
network = build(backbone=backbone, checkpointing=checkpointing)
labels = torch.randint(0, 19, (1, 512, 1024))
start = time.perf_counter()
OVeNetLoss()(network(torch.randn(1, 3, 512, 1024)), labels).total.backward()
duration = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
gradients = hashlib.sha256()
for parameter in network.parameters():
    gradients.update(parameter.grad.numpy())
print(json.dumps({"peak": peak, "seconds": duration, "gradients": gradients.hexdigest()}))
