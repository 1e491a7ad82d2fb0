"""A training ends with the step at which its time is over."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict

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


@pytest.mark.parametrize("several", [False, True])
def test_learning_rates_fall_to_zero_over_the_last_share_of_the_time(several):
    parameter = torch.nn.Parameter(torch.zeros(1))
    own = OptimWrapper(torch.optim.Adam([parameter], lr=3e-4))
    wrapper = OptimWrapperDict(autoencoder=own) if several else own
    hook = TimeLimitHook(minutes=1, decay=0.25)
    times = iter((0.0, 30.0, 45.0, 52.5, 59.0, 61.0))
    hook.clock = lambda: next(times)
    runner = SimpleNamespace(optim_wrapper=wrapper)
    hook.before_train(runner)
    rates = []
    for _ in range(5):
        hook.before_train_iter(runner, 0)
        rates += own.get_lr()["lr"]
    assert rates == pytest.approx([3e-4, 3e-4, 1.5e-4, 2e-5, 0])
