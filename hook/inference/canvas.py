"""Maps larger than a tile, filled with codes by a generator, window by window."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hook.engine.models import evaluating
from hook.progress import progress_bar


class Canvas(NamedTuple):
    """Codes of an image, and where windows join."""

    codes: np.ndarray
    """(Q, h, w)."""
    seams: tuple[tuple[int, ...], tuple[int, ...]]
    """Rows, and columns, of codes in front of which codes of another window begin."""


@torch.no_grad()
def fill_map(
    generator: nn.Module,
    mask: np.ndarray,
    seed: int = 0,
    number: int = 0,
    batch_size: int = 16,
    progress: bool = True,
    **options: Any,
) -> Canvas:
    """Draw the codes of an image for a map of classes.

    Windows of the size of a tile lie half a tile apart. Each takes the codes that are there, above
    and to the left, and draws the others after them. The draws of a window depend on the seed, the
    number of the image and that of the window, not on the batch it is in.

    Args:
        generator: A :class:`hook.models.generators.TileGenerator` of codes with the condition
            ``"map"``.
        mask: (H, W) classes of pixels, ``generator.ignore_index`` for unknown ones.
        seed: Seed of the draws.
        number: Number of the image.
        batch_size: Windows that do not overlap and are drawn at once, at most.
        progress: Show a progress bar.
        **options: Changes of the network's sampling.
    """
    from hook.models.generators.sampling import image_generators  # imports all models

    network = generator.network
    tile, cell = network.grid, generator.cell
    size = tuple(-(-n // c) for n, c in zip(mask.shape, cell, strict=True))
    steps = tuple(max(1, side // 2) for side in tile)
    counts = tuple(
        max(0, math.ceil((n - t) / s)) + 1 for n, t, s in zip(size, tile, steps, strict=True)
    )
    whole = tuple(t + (n - 1) * s for t, n, s in zip(tile, counts, steps, strict=True))
    pads = [(0, n * c - m) for n, c, m in zip(whole, cell, mask.shape, strict=True)]
    mask = np.pad(mask, pads, constant_values=generator.ignore_index)
    device = next(network.parameters()).device
    labels = torch.from_numpy(mask.astype(np.int64)).to(device)[None]
    labels = network.condition.from_labels(labels, generator.ignore_index, whole)[0]
    codes = torch.full((*whole, len(network.codebook_sizes)), -1, device=device)

    def part(of: Tensor, place: tuple[int, int]) -> Tensor:
        rows, columns = (
            slice(k * s, k * s + t) for k, s, t in zip(place, steps, tile, strict=True)
        )
        return of[rows, columns]

    total = math.prod(counts)
    bar = progress_bar(total=total, desc="generate", unit="window", show=progress)
    with evaluating(generator), bar:
        for places in _batches(counts, batch_size):
            numbers = (number * total + row * counts[1] + column for row, column in places)
            given = torch.stack([part(codes, place).flatten(0, 1) for place in places])
            known = torch.stack([part(labels, place) for place in places])
            draws = image_generators(seed, numbers)
            found = network.sample(known, draws, given=given, **options)
            for place, new in zip(places, found, strict=True):
                part(codes, place)[:] = new.unflatten(0, tile)
            bar.update(len(places))
    seams = tuple(tuple(range(t, n, s)) for t, s, n in zip(tile, steps, size, strict=True))
    return Canvas(codes[: size[0], : size[1]].permute(2, 0, 1).cpu().numpy(), seams)


def _batches(counts: tuple[int, int], size: int) -> Iterator[list[tuple[int, int]]]:
    """Yield windows that do not overlap, each after those above and to the left of it.

    A window overlaps its eight neighbours, so that it waits for the next one of the row above.
    """
    rows, columns = counts
    for wave in range(2 * (rows - 1) + columns):
        first = max(0, (wave - columns + 2) // 2)
        places = [(row, wave - 2 * row) for row in range(first, min(rows, wave // 2 + 1))]
        for start in range(0, len(places), size):
            yield places[start : start + size]


def seam_energy(image: np.ndarray, stride: int, seams: tuple) -> tuple[float, float] | None:
    """Return the mean absolute difference of adjacent pixels across seams, and elsewhere.

    Elsewhere are all other edges between codes.

    Args:
        image: (C, H, W).
        stride: Pixels along a side of a code.
        seams: Of :class:`Canvas`.

    Returns:
        None if there are no seams, or nothing else.
    """
    energies: tuple[list, list] = [], []
    for axis, own in enumerate(seams, 1):
        pixels = np.moveaxis(image, axis, 0)
        for edge in range(1, -(-len(pixels) // stride)):
            before, after = (pixels[edge * stride + k].astype(np.float64) for k in (-1, 0))
            energies[edge not in own].append(np.abs(after - before).mean())
    return tuple(float(np.mean(each)) for each in energies) if all(energies) else None
