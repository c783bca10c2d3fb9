"""Megatron as it is on this machine for the tests of this folder, whichever is collected first."""

from __future__ import annotations

import torch

from rlscale.config.schema.cluster_config import Device
from rlscale.platform.device import Platform

Platform.of(Device.cuda if torch.cuda.is_available() else Device.cpu).install_megatron()
