"""End a training by its time."""

import time

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from hook.registry import HOOKS


@HOOKS.register_module()
class TimeLimitHook(Hook):
    """Make the step at which a time is over the last one of a training by iterations.

    The run ends as any other: with a validation and a checkpoint, if its config has them.
    Schedules of the learning rate should not depend on the number of steps; ``decay`` is one that
    does not.

    Args:
        minutes: Limit. It is that of the training's process, added up over its threads, so that
            other processes on the machine do not shorten a run: two minutes per minute on two
            free cores. On a GPU, whose time it does not see, set ``cpu=False``.
        cpu: Count time on the CPU, not on the wall.
        decay: Share of the time, at its end, over which learning rates fall linearly to zero from
            what they are then.
    """

    # The clock starts after the features that a hook of LOW computes, and the last step is known
    # before a CheckpointHook (VERY_LOW) asks for it.
    priority = 80

    def __init__(self, minutes: float, cpu: bool = True, decay: float = 0.0) -> None:
        self.seconds, self.clock = 60 * minutes, time.process_time if cpu else time.perf_counter
        self.decay = decay
        self._rates: list[float] | None = None  # when the decay began

    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self._end = self.clock() + self.seconds

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Lower the learning rates at the end of the time."""
        left = (self._end - self.clock()) / self.seconds
        if not self.decay or left >= self.decay:
            return
        wrapper = runner.optim_wrapper
        wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        groups = [group for one in wrappers for group in one.param_groups]
        self._rates = self._rates or [group["lr"] for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * max(left, 0) / self.decay

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None):
        """Shorten the training to this step when the time is over."""
        if self.clock() >= self._end:
            runner.train_loop._max_iters = runner.iter + 1
