"""Bits that a generator gives to the codes of a scene."""

import math
from itertools import product

import numpy as np
import torch
from torch import nn

from hook.engine.models import evaluating
from hook.inference.entropy import check_code_generator, unknown_labels
from hook.progress import progress_bar


@torch.no_grad()
def code_bits(
    generator: nn.Module,
    codes: np.ndarray,
    known: np.ndarray,
    batch_size: int = 64,
    progress: bool = True,
) -> np.ndarray:
    """Return the bits of each position of a scene, given the codes above and to the left of it.

    Windows of the size of a tile lie half a tile apart. A position counts in the window in which
    most of its surroundings above and to the left are seen: half a tile, less at the upper and left
    edges of the scene. The condition is unknown.

    Args:
        generator: A :class:`hook.models.generators.TileGenerator` of codes.
        codes: (Q, h, w) codes; those of positions without data are not looked at: the network sees
            the code of an empty image there, as in training.
        known: (h, w) bool, the positions with data.
        batch_size: Windows per batch.
        progress: Show a progress bar.

    Returns:
        (h, w) float32, NaN without data; the bits of the Q codes of a position are added up.

    Raises:
        ConfigError: The generator is none of codes, or knows no unknown class.
    """
    from hook.models.generators.sampling import check_finite  # imports all models

    check_code_generator(generator)
    network = generator.network
    tile, size = network.grid, known.shape
    labels = unknown_labels(network, 1)
    blank = _blank(generator) if not known.all() else np.zeros(len(codes), np.int64)
    columns = np.where(known, codes, blank[:, None, None]).astype(np.int64).transpose(1, 2, 0)
    # Scenes smaller than a tile; what is below and to the right is not looked at, except by the
    # positions of the rows below it.
    pads = [(0, max(0, t - n)) for t, n in zip(tile, size, strict=True)]
    columns = torch.from_numpy(np.pad(columns, [*pads, (0, 0)])).to(network.rotary.device)
    bits = np.full(columns.shape[:2], np.nan, np.float32)
    places = list(product(*(_starts(n, t) for n, t in zip(columns.shape[:2], tile, strict=True))))
    bar = progress_bar(total=len(places), desc="surprise", unit="window", show=progress)
    with evaluating(generator), bar:
        for first in range(0, len(places), batch_size):
            some = places[first : first + batch_size]
            windows = torch.stack(
                [columns[r : r + tile[0], c : c + tile[1]].flatten(0, 1) for (r, _), (c, _) in some]
            )
            own = labels.expand(len(some), *labels.shape[1:])
            nats = check_finite(network.code_lengths(windows, own))
            found = (nats.sum(dim=-1) / math.log(2)).unflatten(1, tile).float().cpu().numpy()
            for ((row, top), (column, left)), one in zip(some, found, strict=True):
                part = bits[row + top : row + tile[0], column + left : column + tile[1]]
                part[:] = one[top:, left:]
            bar.update(len(some))
    return np.where(known, bits[: size[0], : size[1]], np.float32(np.nan))


def _blank(generator: nn.Module) -> np.ndarray:
    """Return the codes (Q,) amid a tile without data, which is 0 in the units of the model."""
    empty = torch.zeros(1, generator.codec.in_channels, *generator.tile_size)
    codes = generator(empty.to(generator.network.rotary.device))[0]
    height, width = generator.network.grid
    return codes.unflatten(0, (height, width))[height // 2, width // 2].cpu().numpy()


def _starts(size: int, tile: int) -> list[tuple[int, int]]:
    """Return where windows start, and at which of its positions each begins to count."""
    starts = [*range(0, size - tile, max(1, tile // 2)), size - tile]
    ends = [0, *(start + tile for start in starts)]
    return [(start, end - start) for start, end in zip(starts, ends, strict=False)]
