"""Random geo sampling for MMEngine's Runner."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch import Generator
from torch.utils.data import Sampler

from hook.errors import ConfigError
from hook.registry import DATA_SAMPLERS

# Up to this number of positions, a shuffled list is faster than rejection sampling.
LISTED_POSITIONS = 4096


class ChipQuery(NamedTuple):
    """A chip: index of the scene, and first row and column of the chip in the scene's grid."""

    scene: int
    row: int
    col: int


class ChipPlacer:
    """Draw chip positions in a window, without replacement while possible.

    Args:
        window: (row, col, height, width) in pixels of the scene.
        chip_size: (height, width) of a chip. If the window is smaller, the chip starts at the first
            row or column of the window and is padded.
        generator: Random number generator.
    """

    def __init__(
        self,
        window: tuple[int, int, int, int],
        chip_size: tuple[int, int],
        generator: Generator | None = None,
    ) -> None:
        self.row, self.col = window[:2]
        self.chip_size = chip_size
        self.generator = generator
        self.rows = max(window[2] - chip_size[0], 0) + 1
        self.cols = max(window[3] - chip_size[1], 0) + 1
        self.listed: list[int] = []
        self.used: set[tuple[int, int]] = set()

    def draw(self) -> tuple[int, int]:
        """Return the next (row, col)."""
        count = self.rows * self.cols
        if count <= LISTED_POSITIONS:
            if not self.listed:
                self.listed = torch.randperm(count, generator=self.generator).tolist()
            row, col = divmod(self.listed.pop(), self.cols)
        else:
            if len(self.used) > count // 2:
                self.used.clear()
            while True:
                row, col = self._random_position()
                if (row, col) not in self.used:
                    break
            self.used.add((row, col))
        return self.row + row, self.col + col

    def _random_position(self) -> tuple[int, int]:
        col = int(torch.rand(1, generator=self.generator).item() * self.cols)
        row = int(torch.rand(1, generator=self.generator).item() * self.rows)
        return row, col


def chips_per_epoch(
    windows: Sequence[tuple[int, int, int, int]], chip_size: tuple[int, int]
) -> int:
    """Return the number of adjacent chips that cover all windows, at least one per window.

    Args:
        windows: (row, col, height, width) of each window.
        chip_size: (height, width).
    """
    return sum(
        math.ceil(height / chip_size[0]) * math.ceil(width / chip_size[1])
        for _, _, height, width in windows
    )


def split_over_ranks(queries: Sequence[ChipQuery], world_size: int) -> list[list[ChipQuery]]:
    """Distribute queries over ranks round robin, and equal queries to the same rank if possible.

    Args:
        queries: The global sequence.
        world_size: Number of ranks.

    Returns:
        One list per rank, in the order of the sequence; lengths differ by at most one.
    """
    positions: dict[ChipQuery, list[int]] = {}
    for position, query in enumerate(queries):
        positions.setdefault(query, []).append(position)
    sizes = [len(range(rank, len(queries), world_size)) for rank in range(world_size)]
    shards: list[list[int]] = [[] for _ in range(world_size)]
    single = []
    for repeated in positions.values():
        free = [size - len(shard) for size, shard in zip(sizes, shards, strict=True)]
        if 1 < len(repeated) <= max(free):
            shards[free.index(max(free))] += repeated
        else:
            single += repeated
    rank = 0
    for position in sorted(single):
        while len(shards[rank % world_size]) >= sizes[rank % world_size]:
            rank += 1
        shards[rank % world_size].append(position)
        rank += 1
    return [[queries[position] for position in sorted(shard)] for shard in shards]


@DATA_SAMPLERS.register_module()
class RandomGeoSampler(Sampler[ChipQuery]):
    """Random chips of a :class:`hook.datasets.GeoTIFFFolder`, weighted by area.

    The number of chips per scene is proportional to its area (rounded at random); positions repeat
    only if a scene has fewer positions than chips. The order is random. One global sequence is
    drawn from ``seed + epoch`` and distributed over the ranks, repeated chips to the same rank:
    ranks have disjoint samples, and their union does not depend on the number of ranks (except for
    up to ``world size - 1`` additional samples that make all ranks equally long).

    Args:
        dataset: A ``GeoTIFFFolder``, or a dataset indexed by :class:`ChipQuery` with
            ``sampling_windows`` (one (row, col, height, width) per scene) and ``chip_size``
            (height, width).
        seed: Random seed, equal on all ranks; None draws and shares one.
        length: Chips per epoch over all ranks; default ``len(dataset)``.
        round_up: Draw additional samples to make all ranks equally long.
        infinite: Continue with the next epoch indefinitely, for iteration-based training. MMEngine
            resumes such a run without loading the chips already used.

    Raises:
        ConfigError: If the dataset has no sampling windows, or ``length`` is not positive.
    """

    def __init__(
        self,
        dataset,
        seed: int | None = None,
        length: int | None = None,
        round_up: bool = True,
        infinite: bool = False,
    ) -> None:
        if not hasattr(dataset, "sampling_windows"):
            raise ConfigError(
                f"hook.RandomGeoSampler cannot sample {type(dataset).__name__}",
                expected="hook.GeoTIFFFolder",
                found=type(dataset).__name__,
                remedy="use DefaultSampler, or pass all folders to one GeoTIFFFolder "
                "(images=[...]) instead of ConcatDataset or RepeatDataset",
            )
        if length is not None and length < 1:
            raise ConfigError(
                "hook.RandomGeoSampler: length",
                expected="at least 1 chip per epoch",
                found=length,
                remedy="correct length, or omit it",
            )
        self.rank, self.world_size = get_dist_info()
        self.windows = list(dataset.sampling_windows)
        self.chip_size = tuple(dataset.chip_size)
        self.length = len(dataset) if length is None else int(length)
        self.seed = sync_random_seed() if seed is None else seed
        self.round_up = round_up
        self.infinite = infinite
        self.epoch = 0
        self._start = 0
        if round_up or infinite:
            self.num_samples = math.ceil(self.length / self.world_size)
            self.total_size = self.num_samples * self.world_size
        else:
            self.num_samples = math.ceil((self.length - self.rank) / self.world_size)
            self.total_size = self.length
        if infinite:
            # Only set here: MMEngine calls ``skip`` wherever it exists, also for finite epochs.
            self.skip = self._skip

    def _epoch_queries(self, epoch: int) -> list[ChipQuery]:
        """Draw the global sequence of an epoch, equal on all ranks."""
        generator = torch.Generator()
        generator.manual_seed(self.seed + epoch)
        areas = torch.tensor([h * w for _, _, h, w in self.windows], dtype=torch.float64)
        # Systematic sampling: a scene with a share of 3.4 chips gets 3 or 4, so that equally large
        # tiles are drawn equally often, unlike with independent draws.
        shares = torch.cumsum(areas, 0) / areas.sum() * self.length
        shares[-1] = self.length
        start = torch.rand(1, generator=generator, dtype=torch.float64)
        upto = torch.floor(shares + start).to(torch.int64)
        counts = torch.diff(upto, prepend=torch.zeros(1, dtype=torch.int64))
        scenes = torch.repeat_interleave(torch.arange(len(self.windows)), counts)
        scenes = scenes[torch.randperm(len(scenes), generator=generator)].tolist()
        placers: dict[int, ChipPlacer] = {}
        queries = [self._place(scene, placers, generator) for scene in scenes]
        while len(queries) < self.total_size:
            scene = int(torch.multinomial(areas, 1, generator=generator))
            queries.append(self._place(scene, placers, generator))
        return queries

    def _place(self, scene: int, placers: dict[int, ChipPlacer], generator: Generator) -> ChipQuery:
        if scene not in placers:
            placers[scene] = ChipPlacer(self.windows[scene], self.chip_size, generator)
        return ChipQuery(scene, *placers[scene].draw())

    def __iter__(self) -> Iterator[ChipQuery]:
        """Iterate over the queries of this rank."""
        epoch, skipped = self.epoch, 0
        if self.infinite:
            epoch, skipped = divmod(self._start, self.num_samples)
        while True:
            queries = split_over_ranks(self._epoch_queries(epoch), self.world_size)[self.rank]
            yield from queries[skipped:]
            if not self.infinite:
                return
            epoch, skipped = epoch + 1, 0

    def __len__(self) -> int:
        """Return the number of chips of this rank in one epoch."""
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the chips of the next iteration."""
        self.epoch = epoch

    def _skip(self, num_samples: int) -> None:
        """Start an infinite stream after the first ``num_samples`` chips of this rank."""
        self._start = num_samples
