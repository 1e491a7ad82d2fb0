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

# Up to so many positions a shuffled list of all is cheaper than drawing until one is new.
LISTED_POSITIONS = 4096


class ChipQuery(NamedTuple):
    """Which chip to cut: a scene, and the chip's first row and column in that scene's grid."""

    scene: int
    row: int
    col: int


class ChipPlacer:
    """Draw chip positions in one window without repeating one before all were drawn.

    Args:
        window: (row, col, height, width) in pixels of the scene.
        chip_size: (height, width) of a chip. Where the window is smaller, the chip starts at the
            window's first row or column and is padded.
        generator: Random numbers.
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
        if self.rows * self.cols <= LISTED_POSITIONS:
            if not self.listed:
                self.listed = torch.randperm(
                    self.rows * self.cols, generator=self.generator
                ).tolist()
            row, col = divmod(self.listed.pop(), self.cols)
        else:
            if len(self.used) > self.rows * self.cols // 2:
                self.used.clear()
            while True:
                row, col = self._random_position()
                if (row, col) not in self.used:
                    break
            self.used.add((row, col))
        return self.row + row, self.col + col

    def _random_position(self) -> tuple[int, int]:
        from torchgeo.samplers.utils import get_random_bounding_box

        # In pixels, where TorchGeo's draw is exact. One pixel is added to each side because it
        # rounds down and would otherwise never reach the last row and column.
        x, y = get_random_bounding_box(
            (0, 0, self.cols + self.chip_size[1], self.rows + self.chip_size[0]),
            self.chip_size,
            1,
            self.generator,
        )
        return int(y.start), int(x.start)


def chips_per_epoch(
    windows: Sequence[tuple[int, int, int, int]], chip_size: tuple[int, int]
) -> int:
    """Count the chips that cover all windows side by side; a small window takes one.

    Args:
        windows: (row, col, height, width) of each.
        chip_size: (height, width).

    Returns:
        The number of chips.
    """
    return sum(
        math.ceil(height / chip_size[0]) * math.ceil(width / chip_size[1])
        for _, _, height, width in windows
    )


def deal(queries: Sequence[ChipQuery], world_size: int) -> list[list[ChipQuery]]:
    """Deal queries to ranks in turn, equal ones to one rank wherever the hands allow it.

    Args:
        queries: The global sequence.
        world_size: Number of ranks.

    Returns:
        One list per rank, in the order of the sequence; lengths differ by one at most.
    """
    places: dict[ChipQuery, list[int]] = {}
    for place, query in enumerate(queries):
        places.setdefault(query, []).append(place)
    sizes = [len(range(rank, len(queries), world_size)) for rank in range(world_size)]
    hands: list[list[int]] = [[] for _ in range(world_size)]
    single = []
    for repeated in places.values():
        room = [size - len(hand) for size, hand in zip(sizes, hands, strict=True)]
        if 1 < len(repeated) <= max(room):
            hands[room.index(max(room))] += repeated
        else:
            single += repeated
    turn = 0
    for place in sorted(single):
        while len(hands[turn % world_size]) >= sizes[turn % world_size]:
            turn += 1
        hands[turn % world_size].append(place)
        turn += 1
    return [[queries[place] for place in sorted(hand)] for hand in hands]


@DATA_SAMPLERS.register_module()
class RandomGeoSampler(Sampler[ChipQuery]):
    """Random chips of a :class:`hook.datasets.GeoTIFFFolder`, weighted by area.

    Every scene gets its share of an epoch's chips in proportion to its area (rounded at random), at
    random positions that repeat only where a scene has fewer positions than chips. The order is
    random. One global sequence is drawn from ``seed + epoch`` and dealt to the ranks in turn, a
    repeated chip to the rank that has it already: ranks hold disjoint samples, and their union does
    not depend on how many there are (but for up to ``world size - 1`` further samples that make the
    ranks equally long).

    Args:
        dataset: A ``GeoTIFFFolder``; anything with ``sampling_windows`` (one (row, col, height,
            width) per scene) and ``chip_size`` (height, width), whose items are
            :class:`ChipQuery`.
        seed: Random seed, equal on all ranks; None draws one and shares it.
        length: Chips per epoch over all ranks; default ``len(dataset)``.
        round_up: Make all ranks equally long by drawing further samples.
        infinite: Go on with the next epoch for ever, for iteration-based training. MMEngine resumes
            such a run without loading the chips already seen.

    Raises:
        ConfigError: If the dataset cannot be sampled by place, or ``length`` is not positive.
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
                remedy="use DefaultSampler, or give all folders to one GeoTIFFFolder "
                "(images=[...]) in place of ConcatDataset or RepeatDataset",
            )
        if length is not None and length < 1:
            raise ConfigError(
                "hook.RandomGeoSampler: length",
                expected="at least 1 chip per epoch",
                found=length,
                remedy="correct length, or leave it out",
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
            # MMEngine takes the mere presence of ``skip`` for a promise, which a finite epoch
            # would not keep.
            self.skip = self._skip

    def _epoch_queries(self, epoch: int) -> list[ChipQuery]:
        """Draw the global sequence of an epoch, the same on every rank."""
        generator = torch.Generator()
        generator.manual_seed(self.seed + epoch)
        areas = torch.tensor([h * w for _, _, h, w in self.windows], dtype=torch.float64)
        # Systematic sampling: a scene whose share is 3.4 chips gets 3 or 4, so that folders of
        # ready-cut tiles are seen evenly, which independent draws would not do.
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
        """Iterate over this rank's queries of the epoch."""
        epoch, skipped = self.epoch, 0
        if self.infinite:
            epoch, skipped = divmod(self._start, self.num_samples)
        while True:
            queries = deal(self._epoch_queries(epoch), self.world_size)[self.rank]
            yield from queries[skipped:]
            if not self.infinite:
                return
            epoch, skipped = epoch + 1, 0

    def __len__(self) -> int:
        """Return the number of chips of this rank in one epoch."""
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and with it the chips that the next iteration draws.

        Args:
            epoch: Number of the epoch.
        """
        self.epoch = epoch

    def _skip(self, num_samples: int) -> None:
        """Start an infinite stream after the first ``num_samples`` chips of this rank."""
        self._start = num_samples
