"""Mixed precision on a CPU, which MMEngine's ``AmpOptimWrapper`` does not support."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Optimizer wrapper that trains under bfloat16 autocast on a CPU.

    bfloat16 has float32's range, so gradients need no scaling.
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Run the forward pass under autocast, as MMEngine's ``AmpOptimWrapper`` does."""
        with super().optim_context(model), torch.autocast("cpu", dtype=torch.bfloat16):
            yield
