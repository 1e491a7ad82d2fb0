"""A training ends with the step at which its time is over."""

from types import SimpleNamespace

import pytest

from hook.engine.time_limit_hook import TimeLimitHook


@pytest.mark.parametrize("cpu", [True, False])
def test_the_step_after_the_limit_is_the_last(cpu):
    runner = SimpleNamespace(iter=6, train_loop=SimpleNamespace(_max_iters=1000))
    hook = TimeLimitHook(minutes=0.5, cpu=cpu)
    now = 100.0
    hook.clock = lambda: now
    hook.before_train(runner)
    now = 129.0
    hook.after_train_iter(runner, 6)
    assert runner.train_loop._max_iters == 1000
    now = 131.0
    hook.after_train_iter(runner, 6)
    assert runner.train_loop._max_iters == 7
