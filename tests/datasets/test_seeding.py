"""Random draws of the data: different in each epoch, worker and process, equal for equal seeds."""

import random

import numpy as np
import pytest
import torch
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, Dataset, IterableDataset

import hook.datasets.seeding as module
from hook.checkpoint import load_checkpoint
from hook.datasets.seeding import (
    keep_random_state,
    random_state,
    seed_draws,
    set_random_state,
    set_seed,
)
from hook.registry import DATASETS


def draw() -> tuple[float, float, float]:
    """A number of each global generator."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


@DATASETS.register_module()
class Draws(Dataset):
    """Every sample is three random numbers."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return draw()


class DrawsInTurn(IterableDataset):
    """The same without positions."""

    def __iter__(self):
        return (draw() for _ in range(3))


@DATA_SAMPLERS.register_module(name="ByBatches", force=True)
class _ByBatches(BatchSampler):
    def __init__(self, sampler, batch_size):
        super().__init__(sampler, batch_size, drop_last=False)


def epochs(count=3, seed=0, start=0, **options):
    """The sets of numbers that each epoch draws."""
    config = dict(
        dataset=dict(type="hook.Draws"),
        sampler=dict(type="DefaultSampler", shuffle=True),
        batch_size=2,
        collate_fn=list,
    )
    config = seed_draws({**config, **options}, seed)
    found = []
    with keep_random_state():
        torch.manual_seed(seed)
        loader = Runner.build_dataloader(config, seed=seed)
        for epoch in range(start, count):
            if hasattr(loader.sampler, "set_epoch"):
                loader.sampler.set_epoch(epoch)
            found.append({number for batch in loader for sample in batch for number in sample})
    return found


WAYS = [
    dict(num_workers=1),
    dict(num_workers=2),
    dict(num_workers=2, persistent_workers=True),
    dict(num_workers=2, batch_sampler=dict(type="ByBatches")),
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_epochs_differ_and_the_seed_decides(way):
    first = epochs(**way)
    assert len(set.union(*first)) == 3 * 6 * 3  # no number twice, in no epoch and no worker
    assert first == epochs(**way)
    assert not set.union(*first) & set.union(*epochs(seed=1, **way))


def test_workers_do_not_change_the_draws_nor_does_a_later_start():
    one, two, persistent, batches = (epochs(**way) for way in WAYS)
    assert one == two == persistent == batches
    assert one[2:] == epochs(start=2, **WAYS[2])


def test_processes_draw_different_numbers(monkeypatch):
    found = {}
    for rank in (0, 1):
        monkeypatch.setattr(module, "get_dist_info", lambda rank=rank: (rank, 2))
        found[rank] = [epochs(num_workers=workers) for workers in (0, 2)]
        assert found[rank][0] == found[rank][1]
    assert not set.union(*found[0][0]) & set.union(*found[1][0])


def test_data_sets_without_a_sampler_draw_anew_in_each_epoch():
    way = dict(dataset=dict(type=DrawsInTurn), sampler=None, num_workers=2)
    found = epochs(**way)
    assert len(set.union(*found)) == 3 * 2 * 3 * 3
    assert found == epochs(**way)


def test_one_process_without_workers_draws_from_the_global_state():
    config = dict(
        dataset=dict(type="hook.Draws"), sampler=dict(type="DefaultSampler"), num_workers=0
    )
    assert seed_draws(config, 0) == config


def test_the_wrapped_data_set_and_sampler_are_as_before(monkeypatch):
    monkeypatch.setattr(Draws, "metainfo", {"classes": ("a",)}, raising=False)
    config = dict(
        dataset=dict(type="hook.Draws"), sampler=dict(type="InfiniteSampler"), num_workers=1
    )
    loader = Runner.build_dataloader(seed_draws({**config, "batch_size": 1}, 0), seed=0)
    assert loader.dataset.metainfo == {"classes": ("a",)}
    assert len(loader.dataset) == 6 and len(loader.dataset[0]) == 3
    assert not hasattr(loader.dataset, "chip_size")
    stream = iter(loader.sampler)
    expected = [next(stream) for _ in range(9)]
    other = Runner.build_dataloader(seed_draws({**config, "batch_size": 1}, 0), seed=0)
    other.sampler.skip(7)  # as MMEngine does to resume
    assert next(iter(other.sampler)) == expected[7]


def test_a_process_that_does_not_use_the_gpu_leaves_it_alone(monkeypatch):
    def fail(*args):
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", fail)
    assert "cuda" not in random_state()
    assert len(set.union(*epochs(num_workers=1))) == 3 * 6 * 3


def test_states_return_from_a_checkpoint_that_is_read_without_running_code(tmp_path):
    with keep_random_state():
        set_seed(4, 2)
        draw()
        torch.save({"random_state": [random_state()]}, tmp_path / "state.pth")
        expected = draw()
        set_seed(5)
        set_random_state(load_checkpoint(tmp_path / "state.pth")["random_state"][0])
        assert draw() == expected
