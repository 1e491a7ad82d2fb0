"""Moving averages of weights."""

from mmengine.model import ExponentialMovingAverage
from torch import Tensor, nn

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

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Update one weight; see MMEngine."""
        ramped = 1 - (1 + int(steps)) / (10 + int(steps))
        averaged_param.lerp_(
            source_param, max(self.momentum, ramped) if self.ramp else self.momentum
        )
