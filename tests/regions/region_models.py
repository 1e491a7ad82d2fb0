"""Tokenizers that other processes import by name."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from hook.regions import TokenBatch

NUM_TOKENS = 4
EMBED_DIMS = 3


def by_value(windows, valid):
    """Tokens are ranges of the first band; embeddings tell the window they are from."""
    owners = windows[:, 0].astype(np.int64) // 64
    means = windows.reshape(len(windows), -1).mean(axis=1)
    embeddings = np.zeros((len(windows), NUM_TOKENS, EMBED_DIMS), np.float32)
    embeddings[..., 0] = np.arange(NUM_TOKENS)
    embeddings[..., 1] = means[:, None]
    embeddings[..., 2] = 1
    scores = np.exp(windows[:, 1:4].astype(np.float32) / 99)
    return TokenBatch(owners, embeddings, pixel_scores=scores / scores.sum(1, keepdims=True))


class MakeTokenizer:
    """Leaves a note of the process that loads it."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def __call__(self, device):
        (self.notes / f"{os.getpid()}.{device}").touch(exist_ok=False)

        def tokenize(windows, valid):
            time.sleep(0.05)  # so that neither worker is done before the other begins
            return by_value(windows, valid)

        return tokenize


class KillAfter:
    """Kills its process when it has been called so often."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, windows, valid):
        self.calls -= 1
        if self.calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return by_value(windows, valid)
