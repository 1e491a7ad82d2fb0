"""WeightEMA: all weights in one step, buffers by their names."""

import pytest
import torch
from torch import nn

from hook.models.averaging import WeightEMA


@pytest.mark.parametrize("ramp", [False, True])
def test_the_average_is_that_of_single_weights(ramp):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2).double())
    averaged = WeightEMA(model, momentum=0.1, ramp=ramp)
    expected = {name: one.detach().clone() for name, one in model.named_parameters()}
    for step in range(1, 5):
        for name, one in model.named_parameters():
            one.data.normal_()
            weight = max(0.1, 1 - (1 + step) / (10 + step)) if ramp else 0.1
            expected[name] = (1 - weight) * expected[name] + weight * one.detach()
        averaged.update_parameters(model)
    for name, one in averaged.module.named_parameters():
        assert torch.allclose(one, expected[name])
    assert int(averaged.steps) == 5


def test_a_part_that_came_later_does_not_shift_buffers():
    model = nn.ModuleDict({"frozen": nn.Identity(), "own": nn.BatchNorm1d(3)})
    averaged = WeightEMA(model)
    model["frozen"] = nn.BatchNorm1d(3)  # built when the training starts, and before the other
    model["frozen"].running_mean.fill_(7.0)
    model["own"].running_mean.fill_(2.0)
    averaged.update_parameters(model)
    assert averaged.module["own"].running_mean.tolist() == [2.0] * 3
