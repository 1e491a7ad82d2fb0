"""Random draws of a training's data: seeded by their place in the run, saved and restored.

A data-loader worker keeps its own random state, which no checkpoint holds, and MMEngine seeds a
worker that starts anew as in the first epoch. Here each sample that a worker reads is seeded by
seed, rank, epoch and position in the epoch. So epochs, workers and ranks differ, and a run draws
the same numbers whether its workers persist, how many they are, and whether it was interrupted.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch.utils.data import Dataset, Sampler

from hook.registry import DATA_SAMPLERS, DATASETS

# ruff: noqa: NPY002 - augmentations of other libraries draw from NumPy's global state


def random_state() -> dict[str, Any]:
    """Return the state of the global generators of Python, NumPy, PyTorch and, if used, the GPU.

    It holds only tensors, arrays and plain Python values, as a checkpoint may.
    """
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():  # never so in a forked worker, where this would fail
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore a state of :func:`random_state`; a GPU keeps its own if the state has none."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def keep_random_state() -> Iterator[None]:
    """Restore the random state afterwards."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def set_seed(*key: int) -> None:
    """Seed the global generators with a tuple of non-negative integers."""
    words = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]))


class Draw(NamedTuple):
    """Index of a sample, and what its random draws are seeded with."""

    index: Any
    key: tuple[int, ...]


class SeededSampler(Sampler):
    """A sampler or batch sampler whose indices become :class:`Draw`.

    Args:
        source: Config of the sampler or batch sampler.
        draw_seed: Seed of the draws.
        **options: What MMEngine builds it with.
    """

    def __init__(self, source: dict, draw_seed: int, **options: Any) -> None:
        if "dataset" in options:
            options["dataset"] = unwrap(options["dataset"])
        self.source = DATA_SAMPLERS.build(source, default_args=options)
        self.key = (draw_seed, get_dist_info()[0])
        self.epoch = 0
        self._start = 0
        if hasattr(self.source, "skip"):
            # Only set here: MMEngine calls ``skip`` wherever it exists.
            self.skip = self._skip

    def __getattr__(self, name: str) -> Any:
        if name == "source":  # not built yet
            raise AttributeError(name)
        return getattr(self.source, name)

    def __len__(self) -> int:
        """Return the length of the source."""
        return len(self.source)

    def __iter__(self) -> Iterator[Draw | list[Draw]]:
        """Iterate over the source."""
        epoch, position = self.epoch, self._start
        for found in self.source:
            batch = found if isinstance(found, list) else [found]
            draws = [Draw(one, (*self.key, epoch, position + n)) for n, one in enumerate(batch)]
            position += len(batch)
            yield draws if isinstance(found, list) else draws[0]
        self.epoch = epoch + 1  # MMEngine tells a batch sampler nothing

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the draws, and of the source if it has one."""
        self.epoch = epoch
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(epoch)

    def _skip(self, num_samples: int) -> None:
        self.source.skip(num_samples)
        self._start = num_samples


class SeededDataset(Dataset):
    """A data set that seeds the global generators before it reads a :class:`Draw`.

    Everything else is the wrapped data set's.

    Args:
        dataset: Config of the data set.
    """

    def __init__(self, dataset: dict) -> None:
        self.dataset = DATASETS.build(dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # while unpickling
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        """Return the length of the data set."""
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        """Return a sample."""
        if not isinstance(index, Draw):
            return self.dataset[index]
        with keep_random_state():  # in the main process the model draws as well
            set_seed(*index.key)
            return self.dataset[index.index]


def unwrap(dataset: Any) -> Any:
    """Return the data set inside a :class:`SeededDataset`, or any other as it is."""
    return dataset.dataset if isinstance(dataset, SeededDataset) else dataset


def seed_worker(worker_id: int, rank: int) -> None:
    """Seed a worker from PyTorch's seed, which differs in each epoch, and the rank.

    For data sets without a sampler, whose samples have no position.
    """
    set_seed(torch.initial_seed() - worker_id, rank, worker_id)


def seed_draws(loader: dict, seed: int) -> dict:
    """Return the config of a data loader for training with draws seeded by their place in the run.

    In a single process without workers it stays as it is: draws come from the global state, which
    checkpoints hold.

    Args:
        loader: The config.
        seed: Seed of the run.
    """
    rank, world_size = get_dist_info()
    loader = dict(loader)
    workers = loader.get("num_workers", 0)
    if workers:
        loader.setdefault("worker_init_fn", dict(type=seed_worker, rank=rank))
    if not (workers or world_size > 1) or not isinstance(loader.get("dataset"), dict):
        return loader
    place = "sampler" if loader.get("batch_sampler") is None else "batch_sampler"
    if isinstance(loader.get(place), dict):
        loader["dataset"] = dict(type=SeededDataset, dataset=loader["dataset"])
        loader[place] = dict(type=SeededSampler, source=loader[place], draw_seed=seed)
    return loader
