"""Estimating the windows, memory, disk and time of a map."""

import math
import resource
import sys
import time
import zlib
from dataclasses import dataclass

import numpy as np
import rasterio

from hook.scenes.blending import RowBlock, rows_at_a_time
from hook.scenes.grid import Window
from hook.scenes.layers import BLOCK_SIZE, PartFile
from hook.scenes.mapping import MapPlan, Predict, cache_bytes, check_scores
from hook.scenes.pipeline import QUEUE_SIZE, Scene

_SAMPLES = 24  # windows, evenly spaced over the scene
_BATCHES = 3  # minimum number of timed batches, after a warm-up
_OVERVIEWS = 2  # overviews computed from the sample; the sizes of others are extrapolated


@dataclass(frozen=True)
class Estimate:
    """Estimated resources of a map."""

    windows: int
    """Windows of the grid."""
    empty_windows: int
    """Windows without a valid pixel, estimated from a sample."""
    memory_bytes: int
    """Peak resident memory of the process."""
    disk_bytes: int
    """Size of the map and its scores, estimated from a sample; without polygons."""
    work_bytes: int
    """Size of finished blocks until the map is complete, estimated."""
    seconds: float
    """Time on this machine under its present load, estimated from a few windows."""
    what: str = "map"
    """What is written."""

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        hours, minutes = divmod(minutes, 60)
        disk, work = _size(self.disk_bytes), _size(self.work_bytes)
        rows = (
            ("windows", f"{self.windows}, about {self.empty_windows} of them without data"),
            ("memory", f"{self.memory_bytes / 2**20:.0f} MiB"),
            ("disk", f"{disk}, and {work} until the {self.what} is complete"),
            ("time", f"{hours}:{minutes:02}:{seconds:02}"),
        )
        return "\n".join(f"{name:8} {value}" for name, value in rows)


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def estimate(predict: Predict, scene: Scene, plan: MapPlan) -> Estimate:
    """Estimate time, memory and disk of :func:`hook.scenes.map_scene`.

    Time and disk are extrapolated from a sample of windows; memory is that of the process after
    the model has run, plus the accumulators, the queues and GDAL's cache.

    Args:
        predict: See :func:`hook.scenes.map_scene`.
        scene: The scene.
        plan: Plan of its map.

    Raises:
        SceneError: The scene cannot be read, or the scores have the wrong shape.
    """
    grid = plan.grid
    chosen = np.unique(np.linspace(0, len(grid) - 1, _SAMPLES).round().astype(int))
    with scene.open() as reader, rasterio.Env(GDAL_CACHEMAX=cache_bytes(reader, plan)):
        read = [(grid[index], reader.read(grid[index], grid.window)) for index in chosen.tolist()]
        full = [(window, data) for window, data in read if data.covered.any()]
        share_empty = 1 - len(full) / len(read)
        size = min(plan.batch_size, len(grid))
        seconds, stored = [], np.zeros((2, len(plan.layers)))
        pixels = 0
        for start in range(0, len(full), size):
            batch = full[start : start + size]
            filled = [data for _, data in batch] + [batch[-1][1]] * (size - len(batch))
            images = np.stack([data.image for data in filled])
            valid = np.stack([data.valid for data in filled])
            if not seconds:
                predict(images, valid)
            begun = time.perf_counter()
            scores = check_scores(predict(images, valid), size, plan)
            seconds.append(time.perf_counter() - begun)
            for (window, data), score in zip(batch, scores, strict=False):
                stored += _stored_bytes(plan, window, score, data.covered)
                pixels += data.covered.size
            if len(seconds) >= _BATCHES and pixels >= 4 * plan.window**2:
                break
        memory = resident_bytes() + _added_bytes(plan, reader.dtype, len(reader.indexes))
        memory += cache_bytes(reader, plan)
    scale = plan.height * plan.width * (1 - share_empty) / pixels if pixels else 0
    maps, parts = (stored.sum(axis=1) * scale).tolist()
    empty = round(share_empty * len(grid))
    batches = -(-(len(grid) - empty) // size)
    return Estimate(
        windows=len(grid),
        empty_windows=empty,
        memory_bytes=int(memory),
        disk_bytes=int(maps),
        work_bytes=int(parts),
        seconds=batches * float(np.median(seconds)) if seconds else 0.0,
    )


def _stored_bytes(
    plan: MapPlan, window: Window, scores: np.ndarray, covered: np.ndarray
) -> np.ndarray:
    """Return the compressed size of the values of a window, bytes (map, part) x layers."""
    scores = scores[:, : window.height, : window.width]
    block = RowBlock(window.row_off, scores, covered)
    sizes = np.zeros((2, len(plan.layers)))
    levels = count_overviews(plan.height, plan.width)
    for number, layer in enumerate(plan.layers):
        encoded = layer.encode(block)
        sizes[0, number] = _layer_bytes(np.moveaxis(encoded, 0, -1), levels)
        for band in encoded:
            for row in range(0, window.height, PartFile.STRIP_ROWS):
                strip = np.ascontiguousarray(band[row : row + PartFile.STRIP_ROWS])
                sizes[1, number] += len(zlib.compress(strip, 1))
    return sizes


def _layer_bytes(pixels: np.ndarray, levels: int) -> float:
    """Return the compressed size of pixels (rows, columns, bands) and overviews in a COG."""
    sizes = []
    for level in range(1 + min(levels, _OVERVIEWS)):
        smaller = pixels[:: 2**level, :: 2**level]
        starts = range(0, len(smaller), BLOCK_SIZE)
        tiles = (np.ascontiguousarray(smaller[row : row + BLOCK_SIZE]) for row in starts)
        sizes.append(sum(len(zlib.compress(tile, 6)) for tile in tiles))
    further = max(levels - _OVERVIEWS, 0)
    ratio = sizes[-1] / sizes[-2] if further else 0
    return sum(sizes) + sum(sizes[-1] * ratio**n for n in range(1, further + 1))


def count_overviews(height: int, width: int) -> int:
    """Return the number of overviews of a COG."""
    return max(0, math.ceil(math.log2(max(height, width) / BLOCK_SIZE)))


def _added_bytes(plan: MapPlan, dtype: np.dtype, bands: int) -> int:
    """Return the bytes of accumulators, queues and rows being encoded."""
    window, width, k = plan.window, plan.width, plan.num_classes
    accumulators = min(window, plan.height) * width * (4 * k + 5)
    batch = plan.batch_size * window**2
    queues = (
        2 * QUEUE_SIZE * batch * (bands * dtype.itemsize + 2) + (QUEUE_SIZE + 1) * batch * 4 * k
    )
    rows = rows_at_a_time(width) * width
    # Of finished rows: an argmax, clipped and scaled scores, values and buffers of the layers.
    encoding = rows * (8 + 1) + sum(
        rows * layer.count * (2 * np.dtype(layer.dtype).itemsize + (12 if layer.scaling else 0))
        for layer in plan.layers
    )
    return accumulators + queues + encoding


def resident_bytes() -> int:
    """Return the peak resident memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
