"""Patches of space, time and wavelength with transformer blocks (AToken's encoder)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hook.tokenizers.facts import ImageFacts
from hook.tokenizers.output import TokenizerOutput
from hook.tokenizers.packed_blocks import PackedBlocks, PositionTable, ProbePooling, build_norm
from hook.tokenizers.packing import Packed, crop_to_patches, join_groups, pack_patches
from hook.tokenizers.positions import RotaryAxes

# Shortest and longest wavelengths of the rotary positions: days, metres (rows and columns), and
# nanometres. Made for Sentinel-2: 2 to 128 patches of 8 pixels of 10 m; four years.
GROUND = ((10.0, 1461.0), (160.0, 10240.0), (160.0, 10240.0), (100.0, 4000.0))
_WAVES = 8  # sines, and cosines, that tell the bands of groups="each" apart


@dataclass(frozen=True)
class BandGroup:
    """Bands that share their patches.

    Attributes:
        bands: Indices of the bands.
        factor: Pixels of the image along a pixel of these bands, for bands of a coarser grid that
            came enlarged: 2 for 20 m among 10 m.
    """

    bands: Sequence[int]
    factor: int = 1


class SpaceTimeTokenizer(nn.Module):
    """Tokens of patches over time, rows, columns and band groups, and transformer blocks on them.

    Images have any size, series any number of dates. Patches are packed without padding: one
    without a valid pixel (cloud, missing date, outside the image) becomes no token; invalid pixels
    of others are 0, and add nothing to the linear projection of the patch.

    Rotary positions make attention depend on differences of positions only. With
    ``positions="ground"`` they are days, metres and nanometres, so that one model takes series of
    any dates and images of any resolution, with ``groups="each"`` also of any bands; what a sample
    lacks for that is refused by name. Dates are only needed by several dates, and wavelengths by
    several groups.

    Args:
        in_channels: Number of bands; with ``groups="each"`` any number is accepted.
        embed_dims: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads of a block; ``embed_dims / num_heads`` is a multiple of 8.
        mlp_dims: Hidden width of the feed-forward layers; None: four times ``embed_dims``.
        patch_size: Side of a patch in pixels of its band group, or time steps, rows and columns.
        groups: Band groups, dicts of the fields of :class:`BandGroup`, each with its own
            projection; bands in none of them are not used. None: one of all bands; ``"each"``:
            every band by itself, all with one projection, told apart by their wavelengths.
        positions: ``"ground"``; or ``"index"``, the official form: numbers of patches and groups,
            of images that are cropped at the centre to whole patches.
        rotary: Whether the blocks rotate queries and keys by the positions.
        table_size: Side of a learned table of rows and columns that is resized to each image and
            added to the patches (official: 16); 0 for none.
        ranges: Shortest and longest wavelength of the rotary positions in days, in metres (rows,
            columns) and in nanometres.
        resolution: Ground size of a pixel in metres of images that do not say theirs.
        wavelengths: Central wavelengths in nanometres of the bands of images that do not say them.
        nan_is_invalid: Treat NaN and infinite values as invalid, band by band.
        **options: ``pooling``: build :class:`ProbePooling` for :meth:`pool`; ``qk_norm``,
            ``rms_norm`` and ``bias`` of the blocks.

    Raises:
        ValueError: An option is out of range.

    Reference:
        Lu et al., "AToken: a unified tokenizer for vision", 2025, arXiv:2509.14476; the axes in
        days, metres and nanometres are HOOK's.
    """

    assign = "token"
    with_cls_token = False
    takes_valid = True

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: int = 768,
        depth: int = 4,
        num_heads: int = 12,
        mlp_dims: int | None = None,
        patch_size: int | tuple[int, int, int] = 8,
        groups: str | Sequence[dict] | None = None,
        positions: str = "ground",
        rotary: bool = True,
        table_size: int = 0,
        ranges: Sequence[tuple[float, float]] = GROUND,
        resolution: float | None = None,
        wavelengths: Sequence[float] | None = None,
        nan_is_invalid: bool = False,
        **options: bool,
    ) -> None:
        super().__init__()
        pooling = options.pop("pooling", False)
        if positions not in ("ground", "index"):
            raise ValueError(f"positions must be 'ground' or 'index', got {positions!r}")
        if groups == "each" and positions != "ground":
            raise ValueError("groups='each' needs positions='ground'")
        if wavelengths is not None:
            wavelengths = [float(one) for one in wavelengths]
            if len(wavelengths) != in_channels:
                raise ValueError(f"{len(wavelengths)} wavelengths do not fit {in_channels} bands")
        if len(ranges) != 4:
            raise ValueError(f"ranges are those of 4 axes, got {len(ranges)}")
        self.in_channels, self.embed_dims = in_channels, embed_dims
        self.patch = (1, *[patch_size] * 2) if isinstance(patch_size, int) else tuple(patch_size)
        if len(self.patch) != 3 or min(self.patch) < 1:
            raise ValueError(f"patch_size must be 1 or 3 numbers above 0, got {patch_size}")
        self.on_ground = self.takes_resolution = positions == "ground"
        self.takes_dates = self.takes_wavelengths = True
        self.resolution, self.wavelengths = resolution, wavelengths
        self.nan_is_invalid = nan_is_invalid
        self.each = groups == "each"
        self.groups = self._read_groups(groups)
        values = math.prod(self.patch)
        widths = [1] if self.each else [len(group.bands) for group in self.groups]
        self.embeds = nn.ModuleList(
            nn.Linear(values * width, embed_dims, options.get("bias", True)) for width in widths
        )
        self.table = PositionTable(table_size, embed_dims) if table_size else None
        self.band_embed = nn.Linear(2 * _WAVES, embed_dims, bias=False) if self.each else None
        self.waves = RotaryAxes(2 * _WAVES, ranges[3:])
        self.blocks = PackedBlocks(
            *(embed_dims, depth, num_heads, mlp_dims, rotary),
            *(ranges if self.on_ground else None,),
            **options,
        )
        self.norm = build_norm(embed_dims, options.get("rms_norm", False))
        shared = {key: options[key] for key in ("bias", "rms_norm") if key in options}
        self.head = ProbePooling(embed_dims, num_heads, mlp_dims, **shared) if pooling else None

    def _read_groups(self, groups: str | Sequence[dict] | None) -> list[BandGroup]:
        if groups is None or self.each:
            return [BandGroup(range(self.in_channels))]
        if isinstance(groups, str):
            raise ValueError(f"groups must be 'each', a list of dicts or None, got {groups!r}")
        read = [BandGroup(**group) for group in groups]
        bands = [band for group in read for band in group.bands]
        if not bands or min(bands) < 0 or max(bands) >= self.in_channels:
            raise ValueError(f"groups name bands {bands}, the images have {self.in_channels}")
        if len({*bands}) < len(bands) or not all(group.bands for group in read):
            raise ValueError(f"groups must have bands, and no band in common, got {groups}")
        finest = min(group.factor for group in read)
        if finest < 1 or any(group.factor % finest for group in read):
            raise ValueError("factors of groups must be multiples of the smallest, 1 or more")
        return read

    @property
    def _several(self) -> bool:
        """Whether wavelengths matter, which tell groups apart."""
        return len(self.groups) > 1 or self.each

    # ------------------------------------------------------------------------------ patches
    def lacks(
        self, images: Tensor | Sequence[Tensor], facts: ImageFacts | Sequence[ImageFacts] | None
    ) -> list[str]:
        """Return the names of the facts that are missing for images as of :meth:`embed`."""
        missing = []
        if not self.on_ground:
            return missing
        pairs = [(images, facts)]
        if not isinstance(images, Tensor):
            pairs = list(zip(images, facts or [None] * len(images), strict=False))
        for one, known in pairs:
            known = known or ImageFacts()
            own, given = self.resolution is not None, known.resolution
            if not own and (given is None or not self._metres(known).isfinite().all()):
                missing.append("resolution")
            if one.ndim == 5 and one.shape[1] > 1 and known.dates is None:
                missing.append("dates")
            bands = self.wavelengths if known.wavelengths is None else known.wavelengths
            unknown = bands is None or not torch.as_tensor(bands).isfinite().all()
            if unknown and self._several:
                missing.append("wavelengths")
        return list(dict.fromkeys(missing))

    def patches(
        self, images: Tensor | Sequence[Tensor], facts: ImageFacts | Sequence[ImageFacts] | None
    ) -> list[Packed]:
        """Cut images into packed patches, one pack per band group; see :meth:`embed`."""
        if not isinstance(images, Tensor):
            facts = facts or [None] * len(images)
            if self.each or not len(images) == len(facts) == len(self.groups):
                raise ValueError(
                    f"{len(images)} images and {len(facts)} facts, {len(self.groups)} band groups"
                )
            packs = []
            for one, known, group in zip(images, facts, self.groups, strict=True):
                self._check_bands(one, len(group.bands))
                known = known or ImageFacts()
                if known.wavelengths is None and self.wavelengths is not None:
                    bands = [self.wavelengths[band] for band in group.bands]
                    known = replace(known, wavelengths=torch.tensor(bands))
                packs.append(self._cut(one, known, BandGroup(range(one.shape[-3]))))
        else:
            groups = self.groups
            if self.each:
                groups = [BandGroup((band,)) for band in range(images.shape[-3])]
            else:
                self._check_bands(images, self.in_channels)
            packs = [self._cut(images, facts or ImageFacts(), group) for group in groups]
        packs = _with_data(packs)
        return packs if self.on_ground else _number(packs)

    def cells(self, images: Tensor, facts: ImageFacts) -> Packed:
        """Return the places and positions of the patches of a batch, one value each."""
        packs = self.patches(images, facts)
        return join_groups([one.with_values(one.values[:, :1]) for one in packs])

    def _check_bands(self, images: Tensor, bands: int) -> None:
        if images.shape[-3] != bands:
            raise ValueError(f"images have {images.shape[-3]} bands, the tokenizer expects {bands}")

    def _cut(
        self, images: Tensor, facts: ImageFacts, group: BandGroup
    ) -> tuple[Packed, Tensor | None]:
        """Cut the bands of a group of images into patches.

        Returns:
            The patches, and which of the images have any data in these bands, (B,) bool; None: all.
        """
        images = images if images.ndim == 5 else images[:, None]
        known, bands, total = self.known(images, facts), list(group.bands), images.shape[2]
        images = images[:, :, bands]
        if known is not None and known.shape[2] > 1:
            known = known[:, :, bands]
        if group.factor > 1:
            images, known = _coarsen(images, known, group.factor)
        if not self.on_ground:
            images = crop_to_patches(images, self.patch)
            known = None if known is None else crop_to_patches(known, self.patch)
        packed = pack_patches(images, self.patch, known)
        has_data = None if known is None else known.flatten(1).any(dim=1)
        if not self.on_ground:
            return packed, has_data
        given = self.wavelengths if facts.wavelengths is None else facts.wavelengths
        waves = images.new_zeros(len(images), dtype=torch.float64)
        if given is not None and self._several:
            given = torch.as_tensor(given, dtype=torch.float64, device=images.device)
            if given.shape[-1] != total:
                raise ValueError(f"{given.shape[-1]} wavelengths do not fit {total} bands")
            waves = waves + given[..., bands].mean(dim=-1)
        positions = self._on_ground(packed, facts, group.factor, waves)
        return replace(packed, positions=positions), has_data

    def known(self, images: Tensor, facts: ImageFacts) -> Tensor | None:
        """Return which values of series are known, (B, T, 1 or C, H, W) bool; None if all are."""
        b, t, _, h, w = images.shape
        known = None
        if facts.valid is not None:
            valid = facts.valid if facts.valid.ndim == 4 else facts.valid[:, None]
            if valid.shape != (b, t, h, w) or valid.dtype != torch.bool:
                raise ValueError(
                    f"valid must be bool of ({b}, {t}, {h}, {w}), as the images, got "
                    f"{valid.dtype} of {tuple(facts.valid.shape)}"
                )
            known = valid[:, :, None]
        if facts.dates is not None:
            if facts.dates.shape != (b, t):
                raise ValueError(
                    f"dates must be ({b}, {t}), as the images, got {tuple(facts.dates.shape)}"
                )
            dated = facts.dates.isfinite().reshape(b, t, 1, 1, 1)
            known = dated if known is None else known & dated
        if self.nan_is_invalid:
            finite = images.isfinite()
            known = finite if known is None else known & finite
        return None if known is None else known.expand(b, t, -1, h, w)

    def _metres(self, facts: ImageFacts) -> Tensor:
        """Return the ground size of a pixel, () or (B,), NaN where not known."""
        own = math.nan if self.resolution is None else float(self.resolution)
        given = own if facts.resolution is None else facts.resolution
        given = torch.as_tensor(given, dtype=torch.float64)
        return given.where(given.isfinite(), own)

    def _on_ground(self, packed: Packed, facts: ImageFacts, factor: int, waves: Tensor) -> Tensor:
        """Return time in days, row and column in metres, wavelength in nanometres, (M, 4)."""
        step, row, column, _ = packed.places.T
        b, samples, frames = len(packed.counts), packed.samples, self.patch[0]
        days = waves.new_zeros(b, 1)
        if facts.dates is not None:
            days = facts.dates.to(waves).reshape(b, -1)
            days = F.pad(days, (0, -days.shape[1] % frames), value=math.nan)
            days = days.unflatten(1, (-1, frames)).nanmean(dim=2).nan_to_num()
        metres = factor * self._metres(facts).to(waves).expand(b)[samples]
        return torch.stack(
            [
                days[samples, step],
                (row + 0.5) * self.patch[1] * metres,
                (column + 0.5) * self.patch[2] * metres,
                waves[samples],
            ],
            dim=-1,
        )

    # ------------------------------------------------------------------------------ tokens
    def embed(
        self,
        images: Tensor | Sequence[Tensor],
        facts: ImageFacts | Sequence[ImageFacts] | None = None,
    ) -> Packed:
        """Turn images or series into packed tokens, before the blocks.

        Args:
            images: (B, C, H, W), or (B, T, C, H, W) series; or one of these per band group, each
                on its own grid with the same upper left corner.
            facts: Their validity, resolution, dates and wavelengths; one per band group if the
                images are.

        Raises:
            ValueError: A fact is missing, or does not fit the images.
        """
        if missing := self.lacks(images, facts):
            raise ValueError(
                f"the images lack {' and '.join(missing)}, which positions='ground' needs"
            )
        packs = []
        for group, one in enumerate(self.patches(images, facts)):
            tokens = self.embeds[0 if self.each else group](one.values)
            if self.each:
                angles = self.waves.angles(one.positions[:, 3:]).to(tokens.dtype)
                tokens = tokens + self.band_embed(torch.cat([angles.sin(), angles.cos()], dim=-1))
            if self.table is not None:
                tokens = tokens + self.table(one)
            packs.append(one.with_values(tokens))
        return join_groups(packs)

    def encode(self, packed: Packed) -> Packed:
        """Run the blocks on packed tokens of :meth:`embed`, of any samples joined."""
        packed = self.blocks(packed)
        return packed.with_values(self.norm(packed.values))

    def pool(self, packed: Packed) -> Tensor:
        """Return a vector of length 1 of each sample, (B, D), of the tokens of :meth:`encode`.

        Raises:
            ValueError: The tokenizer was built without ``pooling``.
        """
        if self.head is None:
            raise ValueError("pool needs a tokenizer with pooling=True")
        return self.head(packed)

    def forward(self, images: Tensor, facts: ImageFacts | None = None) -> TokenizerOutput:
        """Tokenise images or series of a batch.

        Args:
            images: (B, C, H, W), or (B, T, C, H, W) series.
            facts: See :meth:`embed`.

        Raises:
            ValueError: As :meth:`embed` and :meth:`unpack`.
        """
        return self.unpack(self.encode(self.embed(images, facts)))

    def unpack(self, packed: Packed) -> TokenizerOutput:
        """Return the tokens of :meth:`encode` as those of a batch.

        Returns:
            Tokens (B, N, D), per band group ordered by date, row and column. At each cell of the
            finest grid, the tokens of its dates and groups have equal weights, and a cell without
            data has none. Tokens of one date and one group, all valid, are the cells.

        Raises:
            ValueError: The images have different numbers of patches with data.
        """
        if len(set(packed.counts)) > 1:
            raise ValueError(
                f"images of a batch have {sorted(set(packed.counts))} patches with data: tokenise "
                "those of equal numbers together (take), or stay with packed tokens"
            )
        tokens = packed.values.unflatten(0, (len(packed.counts), -1))
        finest = min(group.factor for group in self.groups)
        factors = [group.factor // finest for group in self.groups]
        factors = factors * len(packed.grids[0]) if self.each else factors
        size = packed.grids[0][factors.index(1)]
        cell = self.patch[1] * finest if self.patch[1] == self.patch[2] else None
        if len(factors) == size[0] == 1 and tokens.shape[1] == size[1] * size[2]:
            return TokenizerOutput(tokens, None, "grid", size[1:], cell)
        scale = torch.tensor(factors, device=tokens.device)[packed.places[:, 3], None]
        rows, columns = (
            torch.arange(side, device=tokens.device) // scale == place[:, None]
            for side, place in zip(size[1:], packed.places.T[1:3], strict=True)
        )
        weights = (rows[:, :, None] & columns[:, None]).unflatten(0, tokens.shape[:2]).to(tokens)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
        return TokenizerOutput(tokens, weights, "token", size[1:], cell)


def _with_data(cuts: list[tuple[Packed, Tensor | None]]) -> list[Packed]:
    """Leave out groups without data, of which there is one patch, of samples that have others."""
    packs, has_data = zip(*cuts, strict=True)
    if all(one is None for one in has_data):
        return list(packs)
    whole = packs[0].places.new_ones(len(packs[0].counts), dtype=torch.bool)
    kept = torch.stack([whole if one is None else one for one in has_data])
    kept[0] |= ~kept.any(dim=0)
    return [
        pack if one.all() else pack.where(one[pack.samples])
        for pack, one in zip(packs, kept, strict=True)
    ]


def _number(packs: list[Packed]) -> list[Packed]:
    """Set the last of the official positions to the number of the band group."""
    unit = packs[0].places.new_tensor([0, 0, 0, 1])
    return [replace(one, positions=one.places + k * unit) for k, one in enumerate(packs)]


def _coarsen(images: Tensor, known: Tensor | None, factor: int) -> tuple[Tensor, Tensor | None]:
    """Average the known values of squares of pixels; a square with none is unknown."""
    down, right = (-side % factor for side in images.shape[-2:])
    if known is None and (down or right):
        known = torch.ones_like(images[:, :, :1], dtype=torch.bool)
    padding = (0, right, 0, down)

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, padding).flatten(0, 1), factor).unflatten(0, x.shape[:2])

    if known is None:
        return mean(images), None
    share = mean(known.to(images))
    return mean(images.where(known, 0)) / share.clamp(min=1 / (2 * factor**2)), share > 0
