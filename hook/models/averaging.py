"""Moving averages of weights."""

from mmengine.model import ExponentialMovingAverage
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hook.registry import MODELS


@MODELS.register_module()
class WeightEMA(ExponentialMovingAverage):
    """Moving average of weights that starts from the weights before the first step.

    MMEngine's starts from those after it. For ``custom_hooks``, the official setting of codecs::

        dict(type="EMAHook", ema_type="hook.WeightEMA", momentum=0.001)

    Args:
        model: The model.
        momentum: One minus the decay.
        ramp: Decay ``min(1 - momentum, (1 + n) / (10 + n))`` in the n-th step.
        **kwargs: As in MMEngine's ``ExponentialMovingAverage``.
    """

    def __init__(
        self, model: nn.Module, momentum: float = 0.001, ramp: bool = False, **kwargs
    ) -> None:
        super().__init__(model, momentum, **kwargs)
        self.ramp = ramp
        self.steps += 1  # step 0 would copy the weights

    def update_parameters(self, model: nn.Module) -> None:
        """Update all weights together; one by one, small networks wait for a GPU."""
        if self.update_buffers:
            super().update_parameters(model)
            return
        steps = int(self.steps)
        if steps % self.interval == 0:
            sources = dict(model.named_parameters())
            pairs = [
                (averaged.data, sources[name].data.to(averaged.device))
                for name, averaged in self.avg_parameters.items()
                if averaged.dtype.is_floating_point
            ]
            get_ema_multi_avg_fn(1 - self._momentum(steps))(*zip(*pairs, strict=True), None)
        buffers = dict(model.named_buffers())  # a frozen network may have come since
        for name, averaged in self.module.named_buffers():
            averaged.copy_(buffers[name])
        self.steps += 1

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Update one weight; see MMEngine."""
        averaged_param.lerp_(source_param, self._momentum(int(steps)))

    def _momentum(self, steps: int) -> float:
        """Return the weight of the new weights in a step."""
        return max(self.momentum, 1 - (1 + steps) / (10 + steps)) if self.ramp else self.momentum
