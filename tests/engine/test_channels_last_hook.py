import torch
from mmengine.runner import Runner
from torch import nn

from hook.engine.channels_last_hook import ChannelsLastHook


def test_weights_are_laid_out_and_results_stay():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)).eval()
    image = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        before = model(image)
        runner = Runner.__new__(Runner)
        runner.model = model
        ChannelsLastHook().before_run(runner)
        assert model[2].weight.is_contiguous(memory_format=torch.channels_last)
        after = model(image)
    assert after.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(after, before, atol=1e-6)
