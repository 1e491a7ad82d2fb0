"""Models that workers of a cluster import by name."""

import os
import signal
import time
from pathlib import Path

import numpy as np


def answer(windows):
    values = np.exp(windows.astype(np.float32) / 255)
    return values / values.sum(axis=1, keepdims=True)


class MakeModel:
    """A pixelwise model that leaves a note of the process that loaded it."""

    def __init__(self, notes: Path, slow: float = 0, fails: bool = False) -> None:
        self.notes, self.slow, self.fails = notes, slow, fails

    def __call__(self, device):
        (self.notes / f"{os.getpid()}.{device}").touch(exist_ok=False)

        def predict(windows, valid):
            time.sleep(self.slow)
            if self.fails:
                raise RuntimeError("the model is broken")
            return answer(windows)

        return predict


class KillOnce:
    """A model that kills its process, while loading or in a block, where that is the victim."""

    def __init__(self, folder: Path, victim: int, loading: bool = False) -> None:
        self.folder, self.victim, self.loading = folder, victim, loading

    def __call__(self, device):
        calls = []
        if self.loading:
            self.kill()

        def predict(windows, valid):
            calls.append(1)
            time.sleep(0.05)  # so that neither worker is done before the other begins
            if len(calls) == 4:
                self.kill()
            return answer(windows)

        return predict

    def kill(self):
        if os.getpid() == self.victim:
            (self.folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)


class MakeCellModel:
    """A model that gives a window one class."""

    def __call__(self, device):
        return lambda windows, valid: answer(windows.mean(axis=(2, 3)))
