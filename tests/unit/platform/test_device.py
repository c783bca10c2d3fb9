"""Which GPU a process takes."""

from __future__ import annotations

import pytest
import torch

from rlscale.config.errors import UserError
from rlscale.config.schema.cluster_config import Device
from rlscale.platform.device import Platform, host_copy


def test_every_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert [Platform.of(Device.cuda, rank).device.index for rank in range(2)] == [0, 1]
    with pytest.raises(UserError, match=r"^GPU 2 \(counted from 0\) is needed here, but torch sees 2: [^\n]*$"):
        Platform.of(Device.cuda, 2)


def test_a_copy_in_host_memory_does_not_follow_the_tensor() -> None:
    tensor = torch.arange(6).view(2, 3).t()
    copy = host_copy(tensor)
    tensor += 1
    assert copy.tolist() == [[0, 3], [1, 4], [2, 5]]
