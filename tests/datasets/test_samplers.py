from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

import hook.datasets.samplers as module
from hook.datasets import ChipQuery, GeoTIFFFolder, RandomGeoSampler
from hook.datasets.samplers import ChipPlacer, chips_per_epoch, split_over_ranks
from hook.errors import ConfigError

META = {"classes": ("a", "b", "c"), "bands": ("red", "green", "nir")}


class Windows:
    """What the sampler needs of a dataset."""

    def __init__(self, windows, chip_size=(16, 16), length=100):
        self.sampling_windows, self.chip_size, self.length = windows, chip_size, length

    def __len__(self):
        return self.length


@pytest.fixture
def windows():
    return Windows([(0, 0, 100, 80), (5, 7, 40, 40), (0, 0, 10, 12)])


def at_rank(monkeypatch, rank, world_size, *args, **kwargs):
    monkeypatch.setattr(module, "get_dist_info", lambda: (rank, world_size))
    return RandomGeoSampler(*args, **kwargs)


def test_chips_lie_inside_their_window(windows):
    for query in RandomGeoSampler(windows, seed=0, length=500):
        row, col, height, width = windows.sampling_windows[query.scene]
        assert row <= query.row <= row + max(height - 16, 0)
        assert col <= query.col <= col + max(width - 16, 0)


def test_every_position_is_reached(windows):
    placer = ChipPlacer((3, 4, 20, 18), (16, 16), torch.Generator().manual_seed(0))
    drawn = [placer.draw() for _ in range(15)]
    assert sorted(drawn) == [(3 + row, 4 + col) for row in range(5) for col in range(3)]


def test_the_last_row_and_column_of_a_large_window_are_reached():
    generator = torch.Generator().manual_seed(0)
    placer = ChipPlacer((0, 0, 100, 100), (16, 16), generator)
    drawn = [placer.draw() for _ in range(3000)]
    assert len(set(drawn)) == 3000
    rows, cols = zip(*drawn, strict=True)
    assert (min(rows), max(rows), min(cols), max(cols)) == (0, 84, 0, 84)


def test_draws_are_weighted_by_area(windows):
    counts = Counter(query.scene for query in RandomGeoSampler(windows, seed=3, length=972))
    # 8000, 1600 and 120 pixels: systematic sampling is never off by a whole chip.
    assert [counts[scene] for scene in range(3)] == [
        pytest.approx(972 * area / 9720, abs=1) for area in (8000, 1600, 120)
    ]


def test_ready_cut_tiles_are_each_drawn_once_an_epoch():
    tiles = Windows([(0, 0, 16, 16)] * 24, length=24)
    sampler = RandomGeoSampler(tiles, seed=0)
    scenes = [query.scene for query in sampler]
    assert sorted(scenes) == list(range(24)) and scenes != sorted(scenes)


def test_seed_and_epoch_decide_the_draws(windows):
    sampler = RandomGeoSampler(windows, seed=5)
    first = list(sampler)
    assert first == list(sampler) == list(RandomGeoSampler(windows, seed=5))
    assert first != list(RandomGeoSampler(windows, seed=6))
    sampler.set_epoch(1)
    assert first != list(sampler)
    sampler.set_epoch(0)
    assert first == list(sampler)


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("round_up", [True, False])
def test_ranks_share_one_sequence(monkeypatch, windows, world_size, round_up):
    whole = list(RandomGeoSampler(windows, seed=1, length=101))
    parts = []
    for rank in range(world_size):
        sampler = at_rank(
            monkeypatch, rank, world_size, windows, seed=1, length=101, round_up=round_up
        )
        parts.append(list(sampler))
        assert len(parts[-1]) == len(sampler)
    for rank, part in enumerate(parts):
        for other in parts[rank + 1 :]:
            assert not set(part) & set(other)
    union = set().union(*map(set, parts))
    total = -(-101 // world_size) * world_size if round_up else 101
    assert set(whole) <= union and len(set(whole)) >= 100  # the small scene has one position
    assert sum(map(len, parts)) == total and len(union) >= total - 1


def test_chips_are_dealt_in_turn_and_repeated_ones_to_one_rank():
    queries = [ChipQuery(0, 0, number) for number in range(9)]
    assert split_over_ranks(queries, 2) == [queries[::2], queries[1::2]]
    repeated = [queries[number] for number in (0, 1, 2, 0, 3, 1, 4, 0)]
    one, two = split_over_ranks(repeated, 2)
    assert len(one) == len(two) == 4 and not set(one) & set(two)
    assert sorted(one + two) == sorted(repeated)
    # More copies than a rank takes cannot stay together.
    assert [len(hand) for hand in split_over_ranks(queries[:1] * 5, 2)] == [3, 2]


def test_an_infinite_stream_is_resumed_where_it_stopped(monkeypatch, windows):
    def stream(skip=0, count=130):
        sampler = at_rank(monkeypatch, 1, 2, windows, seed=4, length=100, infinite=True)
        if skip:
            sampler.skip(skip)
        iterator = iter(sampler)
        return [next(iterator) for _ in range(count)]

    unbroken = stream(count=200)
    assert stream(skip=63, count=137) == unbroken[63:]
    assert unbroken[:50] != unbroken[50:100]
    assert not hasattr(RandomGeoSampler(windows, seed=0), "skip")


def test_chips_per_epoch():
    assert chips_per_epoch([(0, 0, 32, 33), (0, 0, 5, 100)], (16, 16)) == 2 * 3 + 7


def test_a_dataset_without_places_is_refused():
    with pytest.raises(ConfigError, match="cannot sample SimpleNamespace"):
        RandomGeoSampler(SimpleNamespace(), seed=0)


def test_length_must_be_positive(windows):
    with pytest.raises(ConfigError, match="length"):
        RandomGeoSampler(windows, seed=0, length=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_loader_sends_queries_to_the_dataset(folder, num_workers):
    dataset = GeoTIFFFolder("images", "masks", folder, META, chip_size=32)
    sampler = RandomGeoSampler(dataset, seed=2, length=12)
    loader = DataLoader(
        dataset,
        batch_size=3,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=lambda batch: [sample["geo"] for sample in batch],
    )
    seen = [(geo["source"], *geo["window"][:2]) for batch in loader for geo in batch]
    assert seen == [(dataset.scenes[scene].path, row, col) for scene, row, col in sampler]


def test_queries_name_their_scene(folder):
    dataset = GeoTIFFFolder("images", "masks", folder, META, chip_size=32)
    info = dataset.get_data_info(ChipQuery(2, 7, 9))
    assert (info["scene"], info["row"], info["col"]) == (2, 7, 9)
    assert info["img_path"].endswith("s2.tif") and info["seg_map_path"].endswith("masks/s2.tif")


def test_mmengine_builds_sampler_and_loader(folder):
    from mmengine.runner import Runner

    loader = Runner.build_dataloader(
        dict(
            batch_size=4,
            num_workers=0,
            sampler=dict(type="hook.RandomGeoSampler"),
            dataset=dict(
                type="hook.GeoTIFFFolder",
                images="images",
                masks="masks",
                data_root=str(folder),
                metainfo=META,
                chip_size=32,
                length=10,
                pipeline=[dict(type="hook.PackSegSample")],
            ),
        ),
        seed=7,
    )
    batches = list(loader)
    assert [len(batch["inputs"]) for batch in batches] == [4, 4, 2]
    assert batches[0]["inputs"][0].shape == (3, 32, 32)
    assert all(bool(valid.valid_mask.data.all()) for valid in batches[0]["data_samples"])
