"""Runs of MMEngine: set-up, checkpoints and hooks."""

from hook.engine.channels_last_hook import ChannelsLastHook
from hook.engine.optim import CPUAmpOptimWrapper
from hook.engine.resume_hook import ResumeValidationHook
from hook.engine.runner import HookRunner

__all__ = [
    "CPUAmpOptimWrapper",
    "ChannelsLastHook",
    "HookRunner",
    "ResumeValidationHook",
]
