"""Images of a comparison of codecs, image codecs on them, and scores of what is decoded."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from hook.evaluation.bootstrap import Interval, bootstrap_mean
from hook.evaluation.boundary import boundary_scores
from hook.evaluation.map_labels import MapLabel
from hook.evaluation.rates import ImageCodec, from_mosaic, to_mosaic
from hook.evaluation.reconstruction import measure_reconstruction, psnr
from hook.evaluation.vtbench import image_scores, resized

PER_MOSAIC = 400
Row = dict[str, Interval | float | str]
"""Cells of a table by column."""


@dataclass
class Images:
    """The images of a comparison; those of one size are laid out in mosaics."""

    name: str
    arrays: list[np.ndarray]  # (C, H, W) in the units of the data
    valid: list[np.ndarray | None]  # (H, W) bool
    data_range: float | Sequence
    meta: dict = field(default_factory=dict)  # of the data set
    files: list[str] = field(default_factory=list)  # of which the images are parts
    labels: list[str] = field(default_factory=list)  # names of classes
    truth: list[np.ndarray] = field(default_factory=list)  # (H, W) classes
    regions: dict[str, list[np.ndarray]] = field(default_factory=dict)  # (H, W) bool
    texts: list[list[MapLabel]] = field(default_factory=list)

    @property
    def bands(self) -> Sequence[str] | None:
        """Names of the bands."""
        return self.meta.get("bands")

    @property
    def sheets(self) -> list[slice]:
        """The images of each file: mosaics without a gap, which image codecs would pay for."""
        same = len({array.shape for array in self.arrays}) == 1
        found, start = [], 0
        while count := min(PER_MOSAIC if same else 1, len(self.arrays) - start):
            count -= count % _rows(count)
            found.append(slice(start, start + count))
            start += count
        return found

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return sum(array[0].size for array in self.arrays)


def _rows(count: int) -> int:
    """Return the rows of a mosaic of about a square that leave the fewest images over."""
    side = math.isqrt(count)
    return min(range(-(-side // 2), side + 1), key=lambda rows: (count % rows, -rows))


@dataclass
class Decoded:
    """What a codec makes of the images."""

    name: str
    arrays: list[np.ndarray]  # of autoencoders not rounded
    size: int | None  # bytes of all files; None for latents without codes
    seconds: tuple[float, float]  # of encoding and decoding
    codes: dict[str, float] = field(default_factory=dict)


def run_image_codec(peer: ImageCodec, images: Images, rate: float) -> Decoded | None:
    """Code the images with at most ``rate`` bits per pixel; None if the codec cannot."""
    arrays: list[np.ndarray] = []
    size, seconds = 0, [0.0, 0.0]
    dtype = storage_dtype(images)
    for sheet in images.sheets:
        tiles = images.arrays[sheet]
        columns = len(tiles) // _rows(len(tiles))
        mosaic = to_mosaic(np.stack(tiles), columns).astype(dtype)
        if not peer.takes(mosaic):
            return None
        budget = rate * sum(tile[0].size for tile in tiles) / 8
        found = peer.within(mosaic, budget)
        if found is None:
            return None
        file, taken = found
        seconds[0] += taken
        size += len(file)
        start = time.perf_counter()
        decoded = peer.decode(file)
        seconds[1] += time.perf_counter() - start
        arrays += list(from_mosaic(decoded, len(tiles), columns).astype(np.float32))
    return Decoded(peer.name, arrays, size, tuple(seconds))


def fill_invalid(image: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Return an image (C, H, W) with the mean of its valid pixels where it has no data.

    So no codec pays for the step to a nodata value, and no network sees it.

    Args:
        image: Values in the units of the data.
        valid: (H, W) bool with a valid pixel; None: all.
    """
    if valid is None:
        return image
    known = image[:, valid]
    mean = known.mean(axis=1, dtype=np.float64)
    if np.array_equal(known, np.rint(known)):
        mean = np.rint(mean)
    return np.where(valid, image, mean[:, None, None]).astype(image.dtype)


def storage_dtype(images: Images) -> np.dtype:
    """Return the smallest type that image codecs take and that holds the images exactly."""
    low = min(float(array.min()) for array in images.arrays)
    high = max(float(array.max()) for array in images.arrays)
    whole = all(np.array_equal(array, np.rint(array)) for array in images.arrays)
    for dtype in (np.uint8, np.uint16, np.int16):
        limits = np.iinfo(dtype)
        if whole and limits.min <= low and high <= limits.max:
            return np.dtype(dtype)
    return np.dtype(np.float32)  # no image codec takes it


def as_stored(images: Images, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return decoded images with the type of the originals."""
    dtype = storage_dtype(images)
    if dtype.kind == "f":
        return [np.asarray(one, dtype) for one in arrays]
    limits = np.iinfo(dtype)
    return [np.rint(one).clip(limits.min, limits.max).astype(dtype) for one in arrays]


def score_images(images: Images, of: Decoded) -> Row:
    """Return the row of a codec, without what reads its images."""
    regions = list(zip(*images.regions.values(), strict=True)) or [()] * len(images.arrays)
    measured, files = [], []
    stored = as_stored(images, of.arrays)
    for number, (image, decoded) in enumerate(zip(images.arrays, stored, strict=True)):
        valid = images.valid[number]
        one = measure_reconstruction(
            torch.from_numpy(np.asarray(image)),
            torch.from_numpy(np.asarray(decoded, np.float32)),
            images.data_range,
            None if valid is None else torch.from_numpy(valid),
            regions=regions[number],
        )
        if one is not None:
            measured.append(one)
            files.append(images.files[number] if images.files else number)

    def mean(values: Sequence[float], weights: Sequence[float] | None = None) -> Interval:
        return bootstrap_mean(values, files, seed=0, weights=weights)

    def pooled_psnr(values: Sequence[float], pixels: Sequence[int]) -> Interval:
        error = mean(values, pixels)
        return Interval(*(float(psnr(x)) for x in (error.mean, error.high, error.low)))

    def edge_f1(counts: Sequence[np.ndarray]) -> Interval:
        return mean(100 * boundary_scores(np.stack(counts))["f1"])

    errors = np.stack([one.squared_error for one in measured])
    row: Row = {}
    if of.size is not None:
        row |= {"bits per pixel": 8 * of.size / images.pixels, "bytes": of.size}
    row["PSNR"] = mean(psnr(errors.mean(axis=1)))
    row["PSNR of all"] = pooled_psnr(errors.mean(axis=1), [one.pixels for one in measured])
    row["SSIM"] = mean([one.ssim.mean() for one in measured])
    row["SAM"] = mean([one.angle for one in measured])
    row["ERGAS"] = mean([one.ergas for one in measured])
    row["edge F1"] = edge_f1([one.edges for one in measured])
    for number, name in enumerate(images.regions):
        inside = [(one.region_errors[number], one.region_pixels[number]) for one in measured]
        row[f"{name} PSNR"] = pooled_psnr(*zip(*inside, strict=True))
        row[f"{name} edge F1"] = edge_f1([one.region_edges[number] for one in measured])
    if errors.shape[1] > 1:
        names = images.bands or range(1, errors.shape[1] + 1)
        for key, values in (("PSNR", psnr(errors)), ("SSIM", np.stack([x.ssim for x in measured]))):
            row |= {f"{key} {name}": mean(values[:, i]) for i, name in enumerate(names)}
    row |= of.codes
    for way, seconds in zip(("encoding", "decoding"), of.seconds, strict=True):
        row[f"ms {way}"] = 1000 * seconds / len(images.arrays)
    return row


def vtbench_scores(images: Images, of: Decoded) -> Row:
    """Return the official scores of VTBench; its range and batches depend on the images at hand.

    The images are of red, green and blue with 8 bits, and decoded values are cut off, not rounded,
    as there. Its FID and LPIPS are left out: their networks do not come with HOOK.
    """
    both = [
        resized([array.clip(0, 255).astype(np.uint8).transpose(1, 2, 0) for array in arrays], 256)
        for arrays in (images.arrays, of.arrays)
    ]
    return {f"VTBench {key}": value for key, value in image_scores(*both).items()}
