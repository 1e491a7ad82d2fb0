"""Encoder and decoder of AToken: latents of packed patches of space and time."""

import math
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.models.parts import build_part, check_facts
from hook.registry import MODELS, TOKENIZERS
from hook.tokenizers import ImageFacts, Packed
from hook.tokenizers.packed_blocks import PackedBlocks, PositionTable, build_norm
from hook.tokenizers.packing import pack_patches, unpack_patches
from hook.tokenizers.space_time import GROUND


@MODELS.register_module()
class SpaceTimeEncoder(BaseModule):
    """A :class:`hook.tokenizers.SpaceTimeTokenizer` and a projection of its tokens to latents.

    As the encoder of a :class:`TileAutoencoder` it takes single images of one band group, whose
    ground resolution is that of the tokenizer. Series and several groups have no single map of
    latents: :meth:`encode` packs them.

    Patches without a valid pixel change no latents, and their own are 0.

    Args:
        tokenizer: Config of the tokenizer.
        out_channels: Channels of the latents, twice as many for a ``GaussianQuantizer``.
        proj_channels: Channels of the projection, of which the first ``out_channels`` are the
            latents: AToken has means and variances also in front of codes. None: all are.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: The options do not fit each other.
    """

    takes_valid = True

    def __init__(
        self,
        tokenizer: dict,
        out_channels: int,
        proj_channels: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        options = dict(type="hook.SpaceTimeTokenizer") | dict(tokenizer)
        self.tokenizer = build_part(TOKENIZERS, options, "model.encoder.tokenizer")
        self.out_channels = out_channels
        proj_channels = proj_channels or out_channels
        if proj_channels < out_channels:
            raise ConfigError(
                "model.encoder.proj_channels are fewer than out_channels",
                expected=f"at least {out_channels}",
                found=proj_channels,
                remedy="leave proj_channels out",
            )
        self.proj = nn.Linear(self.tokenizer.embed_dims, proj_channels, bias=False)
        self.in_channels, self.stride = self.tokenizer.in_channels, self.tokenizer.patch[1]

    @property
    def last_layer(self) -> Tensor:
        """Weights at which adaptive weights compare gradients."""
        return self.proj.weight

    def encode(
        self,
        images: Tensor | Sequence[Tensor],
        facts: ImageFacts | Sequence[ImageFacts] | None = None,
    ) -> Packed:
        """Encode images or series as packed latents (M, ``proj_channels``).

        Arguments are those of :meth:`hook.tokenizers.SpaceTimeTokenizer.embed`.

        Raises:
            DataError: A fact is missing.
            ValueError: A fact does not fit the images.
        """
        check_facts(self.tokenizer, images, facts)
        packed = self.tokenizer.encode(self.tokenizer.embed(images, facts))
        return packed.with_values(self.proj(packed.values))

    def forward(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """Encode images (B, C, H, W) as a map of latents (B, D, h, w).

        Args:
            images: The images.
            valid: (B, H, W) bool, their valid pixels; None: all.

        Raises:
            ConfigError: The tokenizer has several band groups or one of a coarser grid, or its
                patches are not square.
        """
        tokenizer = self.tokenizer
        plain = len(tokenizer.groups) == tokenizer.groups[0].factor == 1 and not tokenizer.each
        if not plain or tokenizer.patch[1] != tokenizer.patch[2]:
            raise ConfigError(
                "model.encoder.tokenizer gives no map of latents",
                expected="one band group of factor 1, and square patches",
                found=f"groups={tokenizer.groups}, patch_size={tokenizer.patch}",
                remedy="change them, or call encode, which packs the latents",
            )
        packed = self.encode(images, ImageFacts(valid))
        latents = packed.with_values(packed.values[:, : self.out_channels])
        return torch.stack([one[0] for one in unpack_patches(latents, (1, 1, 1))])


@MODELS.register_module()
class SpaceTimeDecoder(BaseModule):
    """AToken's decoder: transformer blocks over packed latents, and a projection to patches.

    Args:
        in_channels: Channels of the latents.
        out_channels: Number of bands.
        embed_dims: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads of a block; ``embed_dims / num_heads`` is a multiple of 8.
        mlp_dims: Hidden width of the feed-forward layers; None: four times ``embed_dims``.
        patch_size: As of the tokenizer.
        groups: Number of bands of each band group; None: one group of all.
        positions: As of the tokenizer.
        rotary: As of the tokenizer.
        table_size: As of the tokenizer.
        ranges: As of the tokenizer.
        resolution: Ground size of a pixel in metres, for maps of latents and
            ``positions="ground"``.
        fills: Decode patches without latents, too, from a learned token of their band group.
        init_cfg: MMEngine's initialisation config.
        **options: ``qk_norm``, ``rms_norm`` (official, and the default: both) and ``bias``
            (without) of the layers.

    Raises:
        ConfigError: The options do not fit each other.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embed_dims: int = 768,
        depth: int = 4,
        num_heads: int = 12,
        mlp_dims: int | None = None,
        patch_size: int | tuple[int, int, int] = 8,
        groups: Sequence[int] | None = None,
        positions: str = "ground",
        rotary: bool = True,
        table_size: int = 0,
        ranges: Sequence[tuple[float, float]] = GROUND,
        resolution: float | None = None,
        fills: bool = False,
        init_cfg: dict | None = None,
        **options: bool,
    ) -> None:
        super().__init__(init_cfg)
        options = dict(qk_norm=True, rms_norm=True, bias=False) | options
        self.in_channels, self.out_channels = in_channels, out_channels
        self.patch = (1, *[patch_size] * 2) if isinstance(patch_size, int) else tuple(patch_size)
        self.stride, self.resolution = self.patch[1], resolution
        self.on_ground = positions == "ground"
        groups = [out_channels] if groups is None else list(groups)
        if sum(groups) != out_channels or positions not in ("ground", "index"):
            raise ConfigError(
                "model.decoder: groups or positions",
                expected=f"groups of {out_channels} bands in all, positions 'ground' or 'index'",
                found=f"groups={groups}, positions={positions!r}",
                remedy="correct them",
            )
        bias, self.groups = options["bias"], groups
        self.embed = nn.Linear(in_channels, embed_dims, bias)
        self.table = PositionTable(table_size, embed_dims) if table_size else None
        try:
            self.blocks = PackedBlocks(
                *(embed_dims, depth, num_heads, mlp_dims, rotary),
                *(ranges if self.on_ground else None,),
                **options,
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"model.decoder: {error}", remedy="see the options of SpaceTimeDecoder"
            ) from error
        self.norm = build_norm(embed_dims, options["rms_norm"])
        values = math.prod(self.patch)
        self.outs = nn.ModuleList(nn.Linear(embed_dims, values * n, bias) for n in groups)
        self.mask_tokens = None
        if fills:
            self.mask_tokens = nn.Parameter(torch.randn(len(groups), embed_dims) * 0.02)

    @property
    def last_layer(self) -> Tensor:
        """Weights at which adaptive weights compare gradients."""
        return self.outs[-1].weight

    def decode(self, packed: Packed, at: Packed | None = None) -> list[Packed]:
        """Map packed latents (M, in_channels) to packed patches, one pack per band group.

        :func:`hook.tokenizers.packing.unpack_patches` puts them back together.

        Args:
            packed: The latents.
            at: Patches to decode, with and without latents (:meth:`SpaceTimeTokenizer.cells`),
                which needs ``fills=True``; None: those of the latents.
        """
        x = self.embed(packed.values)
        if at is not None:
            tokens = self.mask_tokens[at.places[:, 3]].to(x.dtype)
            x = tokens.index_put((at.found_in(packed),), x[packed.found_in(at)])
            packed = at
        if self.table is not None:
            x = x + self.table(packed)
        packed = self.blocks(packed.with_values(x))
        packed = packed.with_values(self.norm(packed.values))
        several = len(self.outs) > 1
        parts = [packed.of_group(group) if several else packed for group in range(len(self.outs))]
        outs = zip(self.outs, parts, strict=True)
        return [part.with_values(out(part.values)) for out, part in outs]

    def forward(self, latents: Tensor) -> Tensor:
        """Decode a map of latents (B, D, h, w) to images (B, C, H, W).

        Raises:
            ConfigError: There are several band groups, or the resolution is not known.
        """
        if len(self.outs) > 1 or self.on_ground and self.resolution is None:
            raise ConfigError(
                "model.decoder cannot decode a map of latents",
                expected="one band group; with positions='ground' a resolution",
                found=f"{len(self.outs)} groups, resolution={self.resolution}",
                remedy="set them, or call decode with packed latents",
            )
        packed = pack_patches(latents[:, None], (1, 1, 1))
        if self.on_ground:
            metres = torch.tensor([0.0, *(side * self.resolution for side in self.patch[1:]), 0.0])
            centres = packed.places.double() + 0.5
            packed = Packed(
                *(packed.values, packed.places, centres * metres.to(centres)),
                *(packed.counts, packed.grids),
            )
        (patches,) = self.decode(packed)
        return torch.stack([image[0] for image in unpack_patches(patches, self.patch)])
