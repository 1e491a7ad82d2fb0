"""The homogeneous tokenizer, assembled from stem, perception and vectorization."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hook.tokenizers.assignment import diffuse_assignment, explained_variance, mean_colours
from hook.tokenizers.facts import ImageFacts
from hook.tokenizers.hierarchy import RegionHierarchy, merge_seeds
from hook.tokenizers.output import SeedMap, TokenizerOutput
from hook.tokenizers.perception import (
    NearFarAttention,
    ObjectPerception,
    PerceptionBlock,
    SeedAttention,
)
from hook.tokenizers.positions import resize_positions
from hook.tokenizers.slots import SLOT_MODES, SlotVectorization
from hook.tokenizers.stem import SeedStem, StridedStem
from hook.tokenizers.vectorization import (
    ObjectVectorization,
    RegionVectorization,
    choose_seeds,
)

PRESETS: dict[str, dict] = {
    # The paper's tokenizer as officially implemented: a stem at full resolution, a learned
    # position per seed, attention in windows of half the grid's side, then global attention.
    "reference": dict(
        stem="full",
        stem_widths=(64, 128, 256),
        positions="learned",
        perception=("window", "global"),
        perception_heads=8,
        perception_mlp_ratio=4.0,
        perception_bias=True,
        perception_window=None,
        seed_dims=512,
        num_tokens=6,
        assign="seed",
        with_cp=False,
        takes_valid=False,
    ),
    # For speed and any image size: a strided stem, and in each block attention in windows of a
    # fixed size, with rotary positions, in parallel with attention through latents.
    "fast": dict(
        stem="strided",
        stem_widths=(64,),
        positions="rotary",
        perception=("near_far", "near_far"),
        perception_heads=(1, 2),
        head_dims=32,
        perception_mlp_ratio=2.0,
        perception_bias=False,
        perception_window=8,
        num_latents=16,
        seed_dims=128,
        num_tokens=6,
        assign="seed",
        with_cp=False,
        takes_valid=True,
    ),
}
# fast, with a token per region of a hierarchy of merges of the seeds.
PRESETS["objects"] = PRESETS["fast"] | dict(
    num_tokens=64, assign="token", group_dims=12, colour_weight=0.5
)
"""Parts of each preset; a keyword of :class:`HookTokenizer` overrides its preset's value."""
SIZES: dict[str, dict] = {
    "tiny": dict(seed_dims=32, stem_widths=(16,), perception_heads=(1, 1)),
    "small": dict(seed_dims=64, stem_widths=(32,), perception_heads=(1, 1)),
    "base": {},
}
"""Parts of each size of ``"fast"`` and ``"objects"``, in place of their preset's."""

_PARTS = (
    "perception_heads",
    "perception_mlp_ratio",
    "perception_window",
    "num_latents",
    "stem_widths",
    "group_dims",
    "colour_weight",
    "with_cp",
)
_PIXELS_AT_ONCE = 224 * 224  # one 224 px image; see HookTokenizer._images_at_once


def to_pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """Return (value, value) for a number, and (height, width) unchanged."""
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


def _joined(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    """Return parts of a batch as one tensor."""
    return parts[0] if len(parts) == 1 or parts[0] is None else torch.cat(parts)


def _parts_of(preset: str, given: dict) -> dict:
    """Return the parts of a preset in a size, overridden by those that are not None."""
    size = given.pop("size", None) or "base"
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose from {sorted(PRESETS)}")
    sizes = ["base"] if preset == "reference" else list(SIZES)
    if size not in sizes:
        raise ValueError(f"unknown size {size!r} of preset {preset!r}; choose from {sizes}")
    for name in set(given) - {"seed_dims", "num_tokens", "assign", *_PARTS}:
        known = ", ".join(("size", *_PARTS))
        raise TypeError(f"unexpected keyword argument {name!r}; parts are {known}")
    given = {k: v for k, v in given.items() if v is not None}
    for name in set(given) - set(PRESETS[preset]):
        raise ValueError(f"preset {preset!r} does not support {name}")
    return dict(size=size) | PRESETS[preset] | SIZES[size] | given


class HookTokenizer(nn.Module):
    """Homogeneous visual tokenizer: one token per semantically independent region.

    Image -> 4x4-pixel seeds -> object perception (:class:`ObjectPerception`), attention among the
    seeds -> object vectorization (:class:`ObjectVectorization`), whose queries read the tokens.
    The presets differ in their parts; see :data:`PRESETS`. With ``"objects"`` neighbouring seeds
    are merged by colour and learned features (:func:`hook.tokenizers.merge_seeds`), and a token is
    read from each region (:class:`RegionVectorization`); any number of regions is a cut of the same
    hierarchy, and training draws one from a quarter to four times ``num_tokens``.

    Args:
        preset: Name of a set of defaults: ``"reference"`` (the paper), ``"fast"`` or ``"objects"``.
        img_size: Training size in pixels, a side or (height, width); other sizes are accepted.
            ``"reference"`` then resizes its learned positions, and of a side not divisible by 4
            the last rows or columns have no seed; the others have no positions to resize, and pad
            the last seeds with invalid pixels.
        in_channels: Number of bands.
        embed_dims: Width of the tokens.
        seed_dims: Width of the seeds.
        num_tokens: Number of tokens N.
        with_cls_token: Put a learned class token in front of the tokens.
        assign: Meaning of the assignment: ``"seed"``, softmax over the seeds for each token (the
            paper's), or ``"token"``, softmax over the tokens for each seed; ``"gru"`` and
            ``"morph"`` are the slot attentions of Slot-MLLM (:class:`SlotVectorization`), the same
            way round; ``"objects"`` assigns each seed to one token.
        max_tokens: Number K of learned queries. Each training step then uses the first n of them,
            n drawn from 1 to K (nested dropout), which orders the queries: any number up to K can
            be requested afterwards, ``num_tokens`` by default. None: K is ``num_tokens``, and
            training uses all.
        num_iterations: Number of times the tokens read from the seeds.
        resolution: Ground size of a pixel in metres at which the rotary positions were trained
            (not ``"reference"``); without it they count pixels.
        nan_is_invalid: Treat pixels with NaN in any band as invalid (not ``"reference"``), for
            images without validity in :class:`ImageFacts`.
        diffusion_steps: Steps of :func:`hook.tokenizers.diffuse_assignment`, which removes
            fragments from the regions; 0: none. Token maps and dense features use the diffused
            assignment, the tokens the original one.
        diffusion_contrast: Difference of the bands, in normalised units, that counts as an edge.
        band_dropout: Probability that a training step sets a band of an image to zero, the mean
            of normalised images; at least one band is kept.
        **parts: See below; None uses the preset's.

    Keyword Args:
        size: ``"tiny"``, ``"small"`` or ``"base"``: width of stem and seeds of ``"fast"`` and
            ``"objects"``; see :data:`SIZES`. ``"reference"`` has one size, ``"base"``.
        perception_heads: Attention heads of the object perception module; except for
            ``"reference"`` two numbers, of the windowed and of the latent attention.
        perception_mlp_ratio: Hidden width of its feed-forward layers as a multiple of its width.
        perception_window: Attention window in seeds, a side or (height, width); None uses half
            the grid's side, as in the paper; 0 attends globally.
        num_latents: Number of latents of the latent attention (not ``"reference"``).
        stem_widths: Channels of the stem at each resolution before the last.
        group_dims: Number of learned features by which seeds are merged (``"objects"``).
        colour_weight: Weight of the mean colour beside them, of normalised bands as of three.
        with_cp: Save memory in training: backward computes object perception, or only its first so
            many blocks, once more (activation checkpointing, Chen et al., arXiv:1604.06174).

    Raises:
        TypeError: ``parts`` has an unknown name.
        ValueError: An argument is out of range or not supported by the preset, or the preset is
            unknown.

    Example:
        >>> tokenizer = HookTokenizer(img_size=64, seed_dims=32, embed_dims=48).eval()
        >>> tokens, assignment = tokenizer(torch.rand(2, 3, 64, 64))
        >>> tokens.shape, assignment.shape
        (torch.Size([2, 6, 48]), torch.Size([2, 6, 16, 16]))

    Reference:
        Shao et al. (2024), arXiv:2403.18593, section 3. Nested dropout: Rippel et al., "Learning
        ordered representations with nested dropout", ICML 2014.
    """

    stride = 4
    """Pixels per seed."""

    keeps_stem = False  # whether perceive also returns the seeds before object perception

    def __init__(
        self,
        preset: str = "reference",
        img_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        embed_dims: int = 768,
        seed_dims: int | None = None,
        num_tokens: int | None = None,
        with_cls_token: bool = False,
        assign: str | None = None,
        max_tokens: int | None = None,
        num_iterations: int = 1,
        resolution: float | None = None,
        nan_is_invalid: bool = False,
        diffusion_steps: int = 0,
        diffusion_contrast: float = 0.3,
        band_dropout: float = 0.0,
        **parts: Any,
    ) -> None:
        super().__init__()
        given = dict(seed_dims=seed_dims, num_tokens=num_tokens, assign=assign, **parts)
        chosen = _parts_of(preset, given)
        self.img_size = to_pair(img_size)
        self.grid_size = self.img_size[0] // self.stride, self.img_size[1] // self.stride
        if min(self.grid_size) < 1:
            raise ValueError(f"img_size must be at least 4 x 4 pixels, got {self.img_size}")
        for name, minimum in (("seed_dims", 2), ("num_tokens", 1)):
            if chosen[name] < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {chosen[name]}")
        if max_tokens is not None and max_tokens < chosen["num_tokens"]:
            raise ValueError(
                f"max_tokens ({max_tokens}) must be at least num_tokens ({chosen['num_tokens']})"
            )
        if num_iterations < 1:
            raise ValueError(f"num_iterations must be at least 1, got {num_iterations}")
        if preset == "objects":
            for name, value, only in (
                ("assign", chosen["assign"], "token"),
                ("max_tokens", max_tokens, None),
                ("num_iterations", num_iterations, 1),
                ("diffusion_steps", diffusion_steps, 0),
            ):
                if value != only:
                    raise ValueError(
                        f"preset 'objects' does not support {name}={value!r}; leave it out"
                    )
        single = isinstance(PRESETS[preset]["perception_heads"], int)
        if isinstance(chosen["perception_heads"], int) != single:
            raise ValueError(
                f"perception_heads of preset {preset!r} must be "
                + ("a number" if single else "two numbers, near and far")
                + f", got {chosen['perception_heads']}"
            )
        if chosen["assign"] not in (known := ("seed", "token", *SLOT_MODES)):
            raise ValueError(f"assign must be one of {known}, got {chosen['assign']!r}")
        if diffusion_steps < 0 or not diffusion_contrast > 0:
            raise ValueError(
                "diffusion_steps must be at least 0 and diffusion_contrast above 0, got "
                f"{diffusion_steps} and {diffusion_contrast}"
            )
        if not 0 <= band_dropout < 1:
            raise ValueError(f"band_dropout must be at least 0 and below 1, got {band_dropout}")

        self.preset, self.size = preset, chosen["size"]
        self.assign = "token" if chosen["assign"] in SLOT_MODES else chosen["assign"]
        self.in_channels = in_channels
        self.embed_dims = embed_dims
        self.seed_dims = chosen["seed_dims"]
        self.num_tokens = chosen["num_tokens"]
        regions = "group_dims" in chosen  # any number of them
        self.max_tokens = math.inf if regions else max_tokens or self.num_tokens
        self.nested = regions or max_tokens is not None
        self.with_cls_token = with_cls_token
        self.takes_valid = chosen["takes_valid"]
        self.takes_resolution = resolution is not None
        self.colour_weight = chosen.get("colour_weight", 0.0)
        self.resolution = resolution
        self.nan_is_invalid = nan_is_invalid
        self.diffusion_steps, self.diffusion_contrast = diffusion_steps, diffusion_contrast
        self.band_dropout = band_dropout
        for name, asked, part in (
            ("resolution", self.takes_resolution, chosen["positions"] == "rotary"),
            ("nan_is_invalid", nan_is_invalid, self.takes_valid),
        ):
            if asked and not part:
                raise ValueError(f"preset {preset!r} does not support {name}")
        self._assemble(chosen, num_iterations)

    def _assemble(self, chosen: dict, num_iterations: int) -> None:
        """Build the parts that a preset and its overrides name."""
        width, heads = chosen["seed_dims"], chosen["perception_heads"]
        widths = tuple(chosen["stem_widths"])
        if chosen["stem"] == "full":
            self.stem = SeedStem(self.in_channels, width, widths)
        else:
            self.stem = StridedStem(self.in_channels, width, *widths)
        self.pos_embed = None
        if chosen["positions"] == "learned":
            seeds = self.grid_size[0] * self.grid_size[1]
            self.pos_embed = nn.Parameter(torch.randn(1, seeds, width) * 0.02)

        window = chosen["perception_window"]
        window = tuple(n // 2 for n in self.grid_size) if window is None else to_pair(window)
        window = window if min(window) > 0 else None  # of a grid one seed wide, all with all
        attention = {
            "window": lambda: SeedAttention(width, heads, window, pads_are_keys=True),
            "global": lambda: SeedAttention(width, heads, None),
            "near_far": lambda: NearFarAttention(
                width, *heads, chosen["head_dims"], window, chosen["num_latents"], self.stride
            ),
        }
        ratio = chosen["perception_mlp_ratio"]
        self.perception = ObjectPerception(
            *(
                PerceptionBlock(width, attention[kind](), ratio, chosen["perception_bias"])
                for kind in chosen["perception"]
            ),
            with_cp=chosen["with_cp"],
        )
        self.group = None
        if "group_dims" in chosen:
            self.group = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, chosen["group_dims"], bias=False)
            )
            self.vectorization = RegionVectorization(width, self.embed_dims, self.stride)
        else:
            kind = SlotVectorization if chosen["assign"] in SLOT_MODES else ObjectVectorization
            sizes = width, self.embed_dims, self.max_tokens
            self.vectorization = kind(*sizes, chosen["assign"], num_iterations)
        self.cls_token = (
            nn.Parameter(torch.zeros(1, 1, self.embed_dims)) if self.with_cls_token else None
        )

    # ------------------------------------------------------------------------------ seeds
    def perceive(self, images: Tensor, facts: ImageFacts | None = None) -> SeedMap:
        """Compute the seeds of images: stem and object perception.

        Args:
            images: (B, C, H, W) normalised images.
            facts: Validity and resolution. A seed without a valid pixel belongs to no token; a
                resolution needs the tokenizer's ``resolution``.

        Raises:
            ValueError: The images have a wrong number of bands, are smaller than a seed, or the
                preset does not support an argument.
        """
        facts = facts or ImageFacts()
        _, c, h, w = images.shape
        if c != self.in_channels:
            raise ValueError(f"images have {c} bands, the tokenizer expects {self.in_channels}")
        valid = facts.valid
        if valid is not None and not self.takes_valid:
            raise ValueError(
                f"preset {self.preset!r} does not support valid; 'fast' and 'objects' do"
            )
        if facts.resolution is not None and not self.takes_resolution:
            raise ValueError(
                f"preset {self.preset!r} does not support resolution; 'fast' does"
                if self.pos_embed is not None
                else "resolution needs that of training: build the tokenizer with "
                "resolution=<metres>"
            )
        if self.nan_is_invalid:
            known = images.isfinite().all(dim=1)
            valid = known if valid is None else valid & known
        if self.training and self.band_dropout:
            images = self._drop_bands(images)
        colours = None
        if self.diffusion_steps or self.group is not None:
            fill = self.stride - 1 if self.takes_valid else 0
            grid = (h + fill) // self.stride, (w + fill) // self.stride
            colours = mean_colours(images, self.stride, grid, valid)
        if self.takes_valid:
            seeds = self._perceive_any_size(images, valid, self._scale(facts.resolution))
            return seeds._replace(colours=colours)
        if min(h, w) < self.stride:
            raise ValueError(
                f"images are {h} x {w} pixels, a seed is {self.stride} x {self.stride}"
            )
        stem = self.stem(images).permute(0, 2, 3, 1)  # B D h w -> B h w D
        size = stem.shape[1:3]
        positions = resize_positions(self.pos_embed, self.grid_size, size)
        seeds = self.perception(stem + positions.reshape(1, *size, -1))
        return SeedMap(seeds, None, colours, stem if self.keeps_stem else None)

    def _perceive_any_size(
        self, images: Tensor, valid: Tensor | None, scale: Tensor | float
    ) -> SeedMap:
        """Pad the images to whole seeds, and exclude invalid pixels from every seed."""
        h, w = images.shape[-2:]
        missing = (0, -w % self.stride, 0, -h % self.stride)
        if valid is None and any(missing):
            valid = torch.ones(images.shape[0], h, w, dtype=torch.bool, device=images.device)
        if valid is None:
            chunk = self._images_at_once(images, scale)
            parts = [images] if chunk is None else images.split(chunk)
            both = []
            for part in parts:
                stem = self.stem(part).permute(0, 2, 3, 1)  # B D h w -> B h w D
                both.append((self.perception(stem, None, scale), stem if self.keeps_stem else None))
            seeds, stem = map(_joined, zip(*both, strict=True))
            return SeedMap(seeds, None, stem=stem)
        images = images.masked_fill(~valid[:, None], 0)  # NaN times zero is NaN
        images, valid = F.pad(images, missing), F.pad(valid, missing)
        mask = valid[:, None].to(images.dtype)
        stem = self.stem(images, mask).permute(0, 2, 3, 1)
        valid = F.max_pool2d(mask, self.stride)[:, 0] > 0  # B h w
        seeds = self.perception(stem, valid, scale).masked_fill(~valid[..., None], 0)
        stem = stem.masked_fill(~valid[..., None], 0) if self.keeps_stem else None
        return SeedMap(seeds, valid, stem=stem)

    def _images_at_once(self, images: Tensor, scale: Tensor | float) -> int | None:
        """Return how many images to process at a time, see ``rows_at_once``; None for all."""
        chunked = images.device.type == "cpu" and not (self.training or torch.is_grad_enabled())
        traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
        if not chunked or isinstance(scale, Tensor) or traced:
            return None
        return _PIXELS_AT_ONCE // (images.shape[-2] * images.shape[-1]) or None

    def _scale(self, resolution: float | Tensor | None) -> float | Tensor:
        """Return the ground size of a pixel relative to training."""
        if isinstance(resolution, Tensor):
            return (resolution / self.resolution).nan_to_num(1.0)
        return 1.0 if resolution is None else resolution / self.resolution

    def _drop_bands(self, images: Tensor) -> Tensor:
        """Set random bands to zero, keeping at least one per image."""
        b, c = images.shape[:2]
        draw = torch.rand(b, c, device=images.device)
        kept = (draw >= self.band_dropout) | (draw == draw.amax(dim=1, keepdim=True))
        return images.masked_fill(~kept[..., None, None], 0)

    # ------------------------------------------------------------------------------ tokens
    def vectorize(
        self,
        seeds: SeedMap,
        num_tokens: int | None = None,
        hierarchy: RegionHierarchy | None = None,
    ) -> TokenizerOutput:
        """Read tokens from seeds: object vectorization.

        Args:
            seeds: Seeds of :meth:`perceive`.
            num_tokens: Number of tokens N, at most ``max_tokens`` (``"objects"``: any number; the
                last tokens of an image with fewer valid seeds have none). None: the tokenizer's
                ``num_tokens``, or in training with ``max_tokens`` or ``"objects"`` a random number.
            hierarchy: That of :meth:`hierarchy`, if known.

        Returns:
            Tokens (B, N, D), or (B, 1 + N, D) with the class token in front, and their assignment
            (B, N, h, w).

        Raises:
            ValueError: ``num_tokens`` is above the number of queries.
        """
        if num_tokens is None:
            num_tokens = self.draw_tokens()
        if not 1 <= num_tokens <= self.max_tokens:
            raise ValueError(
                f"num_tokens must be from 1 to {self.max_tokens}, the tokenizer's number of "
                f"queries, got {num_tokens}"
            )
        b, h, w, _ = seeds.features.shape
        if self.group is not None:
            # An image in more connected parts than tokens has its last parts in one token.
            hierarchy = hierarchy or self.hierarchy(seeds)
            token_ids = hierarchy.cut(num_tokens).clamp(max=num_tokens - 1)
            tokens = self.vectorization(seeds.features, token_ids, num_tokens)
            numbers = torch.arange(num_tokens, device=token_ids.device)[:, None, None]
            assignment = (token_ids[:, None] == numbers).to(tokens.dtype)
        else:
            valid = None if seeds.valid is None else seeds.valid.flatten(1)
            tokens, assignment = self.vectorization(seeds.features.flatten(1, 2), valid, num_tokens)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(b, -1, -1), tokens], dim=1)
        assignment = assignment.reshape(b, num_tokens, h, w)
        if self.diffusion_steps:
            assignment = diffuse_assignment(
                assignment,
                seeds.colours,
                self.diffusion_steps,
                self.diffusion_contrast,
                seeds.valid,
            ).to(assignment.dtype)
        return TokenizerOutput(tokens, assignment, self.assign, cell=self.stride)

    def draw_tokens(self) -> int:
        """Return the number of tokens; in training a random one, if the tokenizer supports any."""
        if self.training and self.group is not None:
            low, high = math.log(max(self.num_tokens / 4, 1)), math.log(self.num_tokens * 4)
            return round(math.exp(low + (high - low) * float(torch.rand(()))))
        if self.training and self.nested:
            return int(torch.randint(1, self.max_tokens + 1, ()))
        return self.num_tokens

    def grouping(self, seeds: SeedMap) -> Tensor:
        """Return the features by which seeds are merged: learned ones, then the mean bands.

        Args:
            seeds: Seeds of :meth:`perceive`, of the preset ``"objects"``.

        Returns:
            (B, h, w, G + C).
        """
        weight = self.colour_weight * math.sqrt(3 / self.in_channels)
        colours = seeds.colours.permute(0, 2, 3, 1).to(seeds.features.dtype)
        return torch.cat([self.group(seeds.features), weight * colours], dim=-1)

    @torch.no_grad()
    def hierarchy(self, seeds: SeedMap) -> RegionHierarchy:
        """Merge the seeds of the preset ``"objects"``; see :func:`hook.tokenizers.merge_seeds`."""
        return merge_seeds(self.grouping(seeds), seeds.valid)

    @torch.no_grad()
    def count_tokens(self, seeds: SeedMap, explained: float) -> Tensor:
        """Return the smallest number of tokens per image that explains a share of its variance.

        With k tokens, each seed belongs to the one of the first k queries with the most attention
        to it; see :func:`explained_variance` for the share that these regions explain. For
        ``"objects"`` the variance is that of :meth:`grouping`.

        Args:
            seeds: Seeds of :meth:`perceive`.
            explained: Share of the variance to reach, from 0 to 1.

        Returns:
            (B,) int64, from 1 to ``max_tokens``, or to the number of seeds; the maximum where no
            number reaches the share.

        Raises:
            ValueError: The tokens are slots (``assign``), whose assignment has no order.
        """
        if self.group is not None:
            return self.hierarchy(seeds).count_explaining(explained)
        if not hasattr(self.vectorization, "scores"):
            raise ValueError("the assignment of slots depends on their number: set num_tokens")
        features = seeds.features.flatten(1, 2)
        scores = self.vectorization.scores(features)
        if self.assign == "seed":
            # The token map shows the scores after the softmax over the seeds.
            valid = None if seeds.valid is None else seeds.valid.flatten(1)
            scores = choose_seeds(scores, valid)
        token_ids = scores.cummax(dim=1).indices  # B K S: row k - 1 for the first k queries
        if seeds.valid is not None:
            token_ids = token_ids.masked_fill(~seeds.valid.flatten(1)[:, None], -1)
        count = torch.full((len(features),), self.max_tokens, device=features.device)
        for k in range(self.max_tokens - 1, 0, -1):
            enough = explained_variance(features, token_ids[:, k - 1]) >= explained
            count = torch.where(enough, k, count)
        return count

    def forward(
        self,
        images: Tensor,
        num_tokens: int | None = None,
        facts: ImageFacts | None = None,
    ) -> TokenizerOutput:
        """Tokenise images.

        Args:
            images: (B, C, H, W) normalised images of any size.
            num_tokens: Number of tokens N; see :meth:`vectorize`.
            facts: Validity and resolution; see :meth:`perceive`.

        Returns:
            As :meth:`vectorize`; the assignment has a cell per 4 x 4 pixels, for ``"fast"`` with
            sides rounded up.

        Raises:
            ValueError: The images have a wrong number of bands, or an argument is out of range.
        """
        return self.vectorize(self.perceive(images, facts), num_tokens)
