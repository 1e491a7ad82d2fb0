"""Devices that are not there, and several in one name."""

import pytest
import torch

from hook.engine.devices import check_device, list_devices, to_device
from hook.errors import ConfigError


def test_a_device_that_is_there():
    check_device("cpu")
    assert to_device(torch.ones(2), "cpu").tolist() == [1, 1]


@pytest.mark.parametrize("device", ["cuda:77", "gpu", ["cpu"]])
def test_devices_that_are_not_there(device):
    with pytest.raises(ConfigError, match="cannot be used"):
        check_device(device)


def test_several_devices():
    assert list_devices("cpu") == ["cpu"]
    assert list_devices("cuda:1") == ["cuda:1"]
    assert list_devices("cuda:0, 2") == ["cuda:0", "cuda:2"]


@pytest.mark.parametrize("device", ["cpu:0,1", "cuda:0,0", "cuda:0,x", 3])
def test_names_of_several_devices_that_are_none(device):
    with pytest.raises(ConfigError, match="device"):
        list_devices(device)
