"""OVeNet, the Offset Vector Network for semantic segmentation.

The files of this folder are the method; its folders, such as `data` and `training`, are the study around it.
"""

from ovenet_core.losses import OVeNetLoss
from ovenet_core.ovenet import NetworkConfig, OVeNet, Prediction, build
from ovenet_core.weights import load_official

__all__ = ["NetworkConfig", "OVeNet", "OVeNetLoss", "Prediction", "build", "load_official"]
