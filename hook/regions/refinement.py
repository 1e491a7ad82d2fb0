"""Regions of a whole scene with borders along pixels instead of seeds."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import rasterio
import torch

from hook.regions.plan import STRIDE, RegionPlan
from hook.regions.seeds import RefinedStrip, read_seeds
from hook.scenes.grid import Window
from hook.scenes.journal import Journal
from hook.scenes.reader import SceneReader
from hook.tokenizers.hierarchy import refine_borders, refinement_margin

MARGIN = -(-refinement_margin() // STRIDE) * STRIDE
"""Pixels around a part of a scene that may change its borders, in whole seeds."""


class _Colours(NamedTuple):
    """Colours in units of the standard deviation of each of the C bands, from their mean."""

    mean: np.ndarray
    """(C, 1, 1) float64 over the scene, native units."""
    deviation: np.ndarray
    """(C, 1, 1) float64, likewise."""
    regions: np.ndarray
    """(N, C) float32: means over the regions, in these units."""


class BorderRefiner:
    """Reads a scene again, and moves the borders of its regions (:func:`refine_borders`).

    The result does not depend on the rows read at a time.

    Args:
        reader: The scene.
        plan: Options of the run.
        journal: Seeds of the scene.
        regions: (h, w) int32 region of each seed, -1 where there is no data.
        count: Number of regions, N.
        cache_bytes: Size of GDAL's block cache.
    """

    def __init__(
        self,
        reader: SceneReader,
        plan: RegionPlan,
        journal: Journal,
        regions: np.ndarray,
        count: int,
        cache_bytes: int,
    ) -> None:
        self._reader, self._regions, self._cache = reader, regions, cache_bytes
        self._tile = -(-plan.window // STRIDE) * STRIDE
        self._colours = _measure_colours(journal, plan, regions, count)

    def __call__(self, first_row: int, height: int) -> Callable[[], RefinedStrip]:
        """Read some rows; return the function that refines them, for another thread."""
        reader = self._reader
        top = max(first_row - MARGIN, 0)
        bottom = min(first_row + height + MARGIN, reader.height)
        shape = bottom - top, reader.width
        image = np.empty((len(reader.indexes), *shape), reader.dtype)
        valid, covered = np.empty((2, *shape), bool)
        with rasterio.Env(GDAL_CACHEMAX=self._cache):
            for left in range(0, reader.width, self._tile):
                width = min(self._tile, reader.width - left)
                part = np.s_[..., left : left + width]
                data = reader.read(Window(top, left, shape[0], width), max(shape[0], width))
                image[part] = data.image[:, : shape[0], :width]
                valid[part] = data.valid[: shape[0], :width]
                covered[part] = data.covered
        return partial(self._refine, top, image, valid, covered, first_row - top, height)

    def _refine(
        self,
        top: int,
        image: np.ndarray,
        valid: np.ndarray,
        covered: np.ndarray,
        margin: int,
        height: int,
    ) -> RefinedStrip:
        """Refine the rows of a strip without the margin above and below."""
        inner = np.s_[..., margin : margin + height, :]
        regions = np.empty((height, covered.shape[1]), np.int32)
        for left in range(0, covered.shape[1], self._tile):
            first, stop = max(left - MARGIN, 0), left + self._tile + MARGIN
            part = np.s_[..., first:stop]
            found = self._refine_tile(top, first, image[part], valid[part], covered[part])
            found = found[inner][:, left - first :]
            regions[:, left : left + self._tile] = found[:, : self._tile]
        return RefinedStrip(regions, image[inner], valid[inner])

    def _refine_tile(
        self, top: int, left: int, image: np.ndarray, valid: np.ndarray, covered: np.ndarray
    ) -> np.ndarray:
        """Return the region of each pixel (H, W) of a tile whose margins are not exact."""
        height, width = covered.shape
        seeds = self._regions[top // STRIDE :, left // STRIDE :]
        seeds = seeds[: -(-height // STRIDE), : -(-width // STRIDE)]
        numbers, index = np.unique(seeds, return_inverse=True)  # -1 becomes a region of no pixel
        labels = index.reshape(seeds.shape).repeat(STRIDE, axis=0).repeat(STRIDE, axis=1)
        labels = labels[:height, :width]
        labels = np.where(covered, labels, -1)
        colours = self._colours
        means = colours.regions[numbers]
        pixels = ((image - colours.mean) / colours.deviation).astype(np.float32)
        if not valid.all():  # pixels of unknown colour differ from no region as little as their own
            pixels[:, ~valid] = means[labels[~valid]].T
        labels, pixels, means = (torch.from_numpy(part)[None] for part in (labels, pixels, means))
        refined = refine_borders(labels, pixels, means=means)[0].numpy()
        return np.where(refined < 0, -1, numbers[refined])


def _measure_colours(
    journal: Journal, plan: RegionPlan, regions: np.ndarray, count: int
) -> _Colours:
    """Return the colours of regions from the statistics of their seeds.

    Sums are taken seed by seed in row-major order, so that windows change none of their bits.
    """
    bands = len(plan.bands)
    count = max(count, 1)  # for scenes without data
    pixels, sums, squares = np.zeros(count), *np.zeros((2, bands, count))
    origin, row = None, 0  # subtracted first: squares of values would lose digits
    for strip in read_seeds(journal, plan, "counts", "means", "squares"):
        part = regions[row : row + len(strip["counts"])]
        row += len(part)
        known = (part >= 0) & (strip["counts"] > 0)
        if not known.any():
            continue
        region, weights = part[known], strip["counts"][known].astype(np.float64)
        means, within = strip["means"][known].astype(np.float64).T, strip["squares"][known].T
        origin = means[:, :1].copy() if origin is None else origin
        np.add.at(pixels, region, weights)
        for band, values in enumerate(means - origin):
            np.add.at(sums[band], region, weights * values)
            np.add.at(squares[band], region, weights * values**2 + within[band])
    total = max(pixels.sum(), 1)
    mean = sums.sum(axis=1, keepdims=True) / total
    deviation = np.sqrt(np.maximum(squares.sum(axis=1, keepdims=True) / total - mean**2, 0))
    deviation[deviation == 0] = 1
    of_regions = np.where(pixels > 0, sums / np.maximum(pixels, 1) - mean, 0) / deviation
    mean += 0 if origin is None else origin
    return _Colours(
        mean[..., np.newaxis], deviation[..., np.newaxis], of_regions.T.astype(np.float32)
    )
