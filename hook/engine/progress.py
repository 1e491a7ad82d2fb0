"""Training with one progress bar and the log in a file only."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from hook.engine.runner import HookRunner
from hook.progress import progress_bar


class QuietRunner(HookRunner):
    """A runner that logs to its file and prints only errors."""

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """Build the logger, with only errors on the terminal."""
        logger = super().build_logger(*args, **kwargs)
        self._set_terminal_level(logging.ERROR)
        return logger

    def build_visualizer(self, visualizer=None):
        """Build the visualizer of this run; MMEngine would reuse one of the same name."""
        if isinstance(visualizer, dict):
            visualizer = {**visualizer, "name": self.experiment_name}
        return super().build_visualizer(visualizer)

    def train(self):
        """Train, then print warnings again."""
        try:
            return super().train()
        finally:
            self._set_terminal_level(logging.WARNING)

    @staticmethod
    def _set_terminal_level(level: int) -> None:
        for handler in MMLogger.get_current_instance().handlers:
            if type(handler) is logging.StreamHandler:
                handler.setLevel(level)


class TrainingProgressHook(Hook):
    """Show a progress bar on a terminal or in a notebook, else print ten lines.

    Args:
        show: Whether to show or print anything.
    """

    priority = "VERY_LOW"

    def __init__(self, show: bool = True) -> None:
        self.show = show
        self._score: float | None = None

    def before_train(self, runner: Runner) -> None:
        """Start the bar at the current iteration."""
        self._start = time.monotonic()
        self._first, self._total = runner.iter, runner.max_iters
        self._bar = progress_bar(
            total=self._total,
            initial=self._first,
            desc="training",
            unit="it",
            show=self.show,
            dynamic_ncols=True,
        )
        if self.show and self._first >= self._total:
            print(f"      finished already, at iteration {self._first}", flush=True)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Update the bar."""
        done, total = runner.iter + 1, self._total
        notes = {"loss": f"{float(outputs['loss'].detach()):.3f}"}
        if self._score is not None:
            notes["validation mIoU"] = f"{self._score:.1f}"
        self._bar.set_postfix(notes, refresh=False)
        self._bar.update()
        if self.show and self._bar.disable and (done % max(total // 10, 1) == 0 or done == total):
            spent = time.monotonic() - self._start
            left = spent / (done - self._first) * (total - done)
            note = ", ".join(f"{key} {value}" for key, value in notes.items())
            print(f"      {done}/{total}  {spent:.0f} s, {left:.0f} s to go, {note}", flush=True)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Store the score for the bar."""
        self._score = (metrics or {}).get("mIoU", self._score)

    def after_run(self, runner: Runner) -> None:
        """Close the bar."""
        if hasattr(self, "_bar"):
            self._bar.close()


@contextmanager
def use_device(device: str | None) -> Iterator[None]:
    """Set MMEngine's device for training; None keeps its default."""
    from mmengine.device import utils

    default = utils.DEVICE
    if device is not None:
        utils.DEVICE = device  # returned by its get_device()
    try:
        yield
    finally:
        utils.DEVICE = default
