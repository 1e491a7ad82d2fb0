"""Patches of samples of any size, one after the other without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Packed:
    """Patches or tokens of B samples, one sample after the other, without padding.

    Attributes:
        values: (M, D) patches or tokens of all samples.
        places: (M, 4) int64: time step, row and column of the patch on the grid of its band group,
            and the band group.
        positions: (M, 4) time, row, column and band group on the axes of the rotary positions.
        counts: Number of patches of each sample.
        grids: Time steps, rows and columns (t, h, w) of each band group, for each sample. Patches
            without data are absent, so there may be fewer than t * h * w.
    """

    values: Tensor
    places: Tensor
    positions: Tensor
    counts: tuple[int, ...]
    grids: tuple[tuple[tuple[int, int, int], ...], ...]

    @property
    def samples(self) -> Tensor:
        """(M,) int64 sample of each patch."""
        counts = torch.tensor(self.counts, device=self.places.device)
        samples = torch.arange(len(self.counts), device=self.places.device)
        return samples.repeat_interleave(counts, output_size=len(self.places))

    def with_values(self, values: Tensor) -> Packed:
        """Return other values (M, D) of the same patches."""
        return replace(self, values=values)

    def take(self, index: Tensor) -> Packed:
        """Select samples."""
        chosen = index.tolist()
        parts = ((x.split(self.counts)) for x in (self.values, self.places, self.positions))
        parts = [torch.cat([part[sample] for sample in chosen]) for part in parts]
        counts, grids = (tuple(x[sample] for sample in chosen) for x in (self.counts, self.grids))
        return Packed(*parts, counts, grids)

    def padded(self) -> tuple[Tensor, Tensor | None]:
        """Return values (B, N, D) padded with 0, and (B, N) bool, where there are any."""
        if len(set(self.counts)) == 1:
            return self.values.unflatten(0, (len(self.counts), -1)), None
        values = nn.utils.rnn.pad_sequence(self.values.split(self.counts), batch_first=True)
        counts = torch.tensor(self.counts, device=values.device)
        return values, torch.arange(values.shape[1], device=values.device) < counts[:, None]

    def found_in(self, other: Packed) -> Tensor:
        """Return which of the patches (M,) bool another pack of the same samples has, too."""
        keys = [torch.cat([one.samples[:, None], one.places], dim=1) for one in (self, other)]
        sizes = torch.cat(keys).amax(dim=0) + 1
        steps = torch.cat([sizes.new_ones(1), sizes[:-1].cumprod(dim=0)])
        return torch.isin(*((key * steps).sum(dim=1) for key in keys))

    def where(self, kept: Tensor) -> Packed:
        """Return the patches of a mask (M,)."""
        counts = self.samples[kept].bincount(minlength=len(self.counts)).tolist()
        parts = (one[kept] for one in (self.values, self.places, self.positions))
        return Packed(*parts, tuple(counts), self.grids)

    def of_group(self, group: int) -> Packed:
        """Return the patches of a band group, as a pack of this group alone."""
        packed = self.where(self.places[:, 3] == group)
        places = packed.places * packed.places.new_tensor([1, 1, 1, 0])
        return replace(packed, places=places, grids=tuple((one[group],) for one in self.grids))


def join_samples(packs: Sequence[Packed]) -> Packed:
    """Join packs of different samples of the same band groups."""
    parts = zip(*((one.values, one.places, one.positions) for one in packs), strict=True)
    counts = sum((one.counts for one in packs), ())
    return Packed(*map(torch.cat, parts), counts, sum((one.grids for one in packs), ()))


def join_groups(packs: Sequence[Packed]) -> Packed:
    """Join packs of different band groups of the same samples, one pack a group."""
    if len(packs) == 1:
        return packs[0]
    order = torch.cat([one.samples for one in packs]).argsort(stable=True)
    places = []
    for group, one in enumerate(packs):
        places.append(one.places.clone())
        places[-1][:, 3] = group
    values, positions = (torch.cat([getattr(one, n) for one in packs])[order] for n in _FLOATS)
    counts = tuple(map(sum, zip(*(one.counts for one in packs), strict=True)))
    grids = tuple(sum(grid, ()) for grid in zip(*(one.grids for one in packs), strict=True))
    return Packed(values, torch.cat(places)[order], positions, counts, grids)


_FLOATS = ("values", "positions")


def resize_into(images: Tensor, least: tuple[int, int], most: tuple[int, int]) -> Tensor:
    """Resize images so that both sides reach ``least``, unless one would exceed ``most``.

    Bilinear, without a filter against aliasing, as the official code does; images between both are
    unchanged.

    Args:
        images: (B, C, H, W).
        least: Height and width.
        most: Height and width.
    """
    size = images.shape[-2:]
    scale = max(1.0, *(low / side for low, side in zip(least, size, strict=True)))
    scale = min(scale, *(high / side for high, side in zip(most, size, strict=True)))
    target = [round(side * scale) for side in size]
    if target == list(size):
        return images
    return F.interpolate(images, target, mode="bilinear", align_corners=False)


def crop_to_patches(images: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Crop images (..., H, W) at their centre to whole patches, as the official code does.

    Raises:
        ValueError: The images are smaller than a patch.
    """
    for axis, side in ((-2, patch[1]), (-1, patch[2])):
        size = images.shape[axis]
        if size < side:
            raise ValueError(f"a side of {size} pixels is smaller than a patch of {side}")
        images = images.narrow(axis, size % side // 2, size - size % side)
    return images


def pack_patches(
    images: Tensor, patch: tuple[int, int, int], known: Tensor | None = None
) -> Packed:
    """Cut images of one band group into patches.

    Images are padded with unknown values at the end of each axis up to whole patches. Unknown
    values become 0, and patches without any known value are left out; a sample without any known
    value keeps its first patch.

    Args:
        images: (B, T, C, H, W).
        patch: Time steps, rows and columns (t, h, w) of a patch.
        known: Bool, broadcast against the images; None: all values are known.

    Returns:
        Patches of t * h * w * C values in the order (time step, row, column, band); ``positions``
        are the ``places``.
    """
    b, frames, bands, *size = images.shape
    if known is not None:
        images = images.where(known, 0)
    down, right = (-side % step for side, step in zip(size, patch[1:], strict=True))
    padding = (0, right, 0, down, 0, 0, 0, -frames % patch[0])
    patches = _cut(F.pad(images, padding), patch)  # B t h w P
    grid = tuple(patches.shape[1:4])
    axes = (torch.arange(side, device=images.device) for side in (*grid, 1))
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 4)
    values, places = patches.flatten(0, 3), places.repeat(b, 1)
    counts = (len(places) // b,) * b
    if known is not None:
        full = F.pad(known.expand(images.shape), padding)
        kept = _cut(full, patch).any(dim=-1).flatten(1)
        kept[:, 0] |= ~kept.any(dim=1)
        counts, kept = tuple(kept.sum(dim=1).tolist()), kept.flatten()
        values, places = values[kept], places[kept]
    return Packed(values, places, places, counts, ((grid,),) * b)


def _cut(images: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Cut (B, T, C, H, W) into (B, t, h, w, values of a patch)."""
    b, frames, bands, height, width = images.shape
    t, h, w = patch
    cut = images.reshape(b, frames // t, t, bands, height // h, h, width // w, w)
    return cut.permute(0, 1, 4, 6, 2, 5, 7, 3).flatten(4)


def unpack_patches(packed: Packed, patch: tuple[int, int, int], fill: float = 0.0) -> list[Tensor]:
    """Put the patches of one band group back together.

    Args:
        packed: Patches (M, t * h * w * C) as of :func:`pack_patches`.
        patch: Time steps, rows and columns (t, h, w) of a patch.
        fill: Value where a patch is absent.

    Returns:
        (T, C, H, W) of each sample, padded to whole patches.
    """
    t, h, w = patch
    images = []
    parts = zip(*(x.split(packed.counts) for x in (packed.values, packed.places)), strict=True)
    for (values, places), (grid,) in zip(parts, packed.grids, strict=True):
        cells = values.new_full((*grid, values.shape[1]), fill)
        cells = cells.index_put(tuple(places[:, :3].T), values)
        cut = cells.reshape(*grid, t, h, w, -1).permute(0, 3, 6, 1, 4, 2, 5)  # T t C H h W w
        images.append(cut.reshape(grid[0] * t, cut.shape[2], grid[1] * h, grid[2] * w))
    return images
