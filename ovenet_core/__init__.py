"""OVeNet, the Offset Vector Network for semantic segmentation: network, method and study in a dozen thin modules."""
