"""Lays the weights of convolutions out channels last."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from hook.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Run the model's convolutions on channels-last tensors.

    Results are those of the default layout up to rounding. oneDNN and cuDNN are built around this
    layout, and the maps turn into sequences of seeds or tokens without a copy.
    """

    def before_run(self, runner: Runner) -> None:
        """Lay out the weights before the first step."""
        runner.model.to(memory_format=torch.channels_last)
