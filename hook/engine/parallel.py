"""Several processes for models that average their gradients themselves."""

import torch
from mmengine.dist import broadcast
from mmengine.registry import MODEL_WRAPPERS
from torch import nn


@MODEL_WRAPPERS.register_module()
class ReplicatedModel(nn.Module):
    """A model whose ``train_step`` averages gradients, with equal weights in all processes.

    ``DistributedDataParallel`` expects one backward pass over all parameters; an autoencoder with
    a discriminator has two, over a part each. :class:`hook.engine.runner.HookRunner` uses this
    wrapper for models with ``averages_gradients``.

    Args:
        module: The model, on its device. It takes the weights of the first process.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        with torch.no_grad():
            for value in module.state_dict().values():
                broadcast(value)

    def forward(self, *args, **kwargs):
        """Run the model."""
        return self.module(*args, **kwargs)

    def train_step(self, *args, **kwargs):
        """Run the model's step."""
        return self.module.train_step(*args, **kwargs)

    def val_step(self, *args, **kwargs):
        """Run the model's step."""
        return self.module.val_step(*args, **kwargs)

    def test_step(self, *args, **kwargs):
        """Run the model's step."""
        return self.module.test_step(*args, **kwargs)
