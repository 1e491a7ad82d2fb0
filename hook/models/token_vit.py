"""ViT blocks over the tokens of any tokenizer."""

from functools import partial
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModule
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.models.parts import build_part, check_facts
from hook.models.pretrained import load_pretrained
from hook.registry import MODELS, TOKENIZERS
from hook.structures import ImageTokens
from hook.tokenizers import ImageFacts, Packed, SeedMap, TokenizerOutput


def build_tokenizer(cfg: dict, embed_dims: int) -> nn.Module:
    """Build a tokenizer of the registry with the width of the backbone.

    Args:
        cfg: ``type`` and the tokenizer's options.
        embed_dims: Width of the backbone.

    Raises:
        ConfigError: The type or an option is unknown, or the widths differ.
    """
    options = dict(embed_dims=embed_dims) | dict(cfg)
    if options["embed_dims"] != embed_dims:
        raise ConfigError(
            "model.backbone.tokenizer.embed_dims differs from the backbone's",
            expected=embed_dims,
            found=options["embed_dims"],
            remedy="leave embed_dims out of the tokenizer; it follows the backbone",
        )
    return build_part(TOKENIZERS, options, "model.backbone.tokenizer")


@MODELS.register_module()
class TokenViT(BaseModule):
    """Vision transformer blocks over the tokens of any registered tokenizer.

    With ``out_indices`` the backbone returns dense maps, one per block, for any mmseg decode head;
    without, the tokens of the last block, for classification.

    Args:
        tokenizer: Config of a tokenizer in :data:`hook.registry.TOKENIZERS`; ``embed_dims``
            follows the backbone.
        embed_dims: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads of a block.
        mlp_ratio: Hidden width of the feed-forward layers as a multiple of ``embed_dims``.
        qkv_bias: Whether query, key and value have a bias.
        out_indices: Blocks (from 0; negative counts from the end) whose tokens become dense maps.
        dense_size: Grid of the dense maps, a side or (height, width); None uses a cell per
            16 x 16 pixels for ``assign="seed"`` (the paper's 32 x 32 at 512 pixels), a cell per
            seed for ``assign="token"``, the patch grid for patch embedding.
        seed_skip: Also return the seeds (B, seed_dims, h, w), after the dense maps, for a neck
            such as :class:`hook.models.SeedPyramid`. ``"stem"`` returns them as they were before
            object perception: what tokens know then only adds to them.
        explained: Outside training, use the smallest number of tokens per image that explains this
            share of the variance of its seeds (``HookTokenizer.count_tokens``); None uses the
            tokenizer's number.
        final_norm: LayerNorm after the last block (the paper has none; weights of timm do).
        norm_eps: Epsilon of the LayerNorms (paper 1e-5; most timm weights were trained at 1e-6).
        layer_scale: Initial value of LayerScale, for weights that have it; None for none.
        drop_path_rate: Stochastic depth of the last block, growing linearly from zero.
        frozen_stages: Parts that are not trained and stay in evaluation mode: -1 for none, 0 for
            the tokenizer, n for the tokenizer and the first n blocks (with all blocks also the
            final norm).
        **options: ``region_levels``: with ``seed_skip`` and a tokenizer of the preset
            ``"objects"``, also return this many partitions (B, L, h, w) of the seeds, for a head
            such as :class:`hook.models.RegionContextHead`: the token of each seed, then the regions
            of the same hierarchy with a quarter as many, and so on.
            ``init_cfg`` of MMEngine's ``BaseModule``: ``dict(type='Pretrained', checkpoint=...)``
            loads the blocks of a timm ViT from a file or by timm's name of the model.

    Raises:
        ConfigError: An option is out of range.

    Reference:
        Shao et al. (2024), arXiv:2403.18593; blocks of Dosovitskiy et al. (2021) from timm.
    """

    def __init__(
        self,
        tokenizer: dict,
        embed_dims: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        out_indices: tuple[int, ...] | None = None,
        dense_size: int | tuple[int, int] | None = None,
        seed_skip: bool | str = False,
        explained: float | None = None,
        final_norm: bool = False,
        norm_eps: float = 1e-5,
        layer_scale: float | None = None,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        **options: Any,
    ) -> None:
        region_levels = options.pop("region_levels", 0)
        super().__init__(**options)
        if embed_dims % num_heads:
            raise ConfigError(
                "model.backbone: embed_dims must be divisible by num_heads",
                found=f"embed_dims={embed_dims}, num_heads={num_heads}",
                remedy="change one of them",
            )
        self.out_indices = None
        if out_indices is not None:
            bad = [i for i in out_indices if not -depth <= i < depth]
            if bad:
                raise ConfigError(
                    f"model.backbone.out_indices names blocks that do not exist: {bad}",
                    expected=f"indices from 0 to {depth - 1}",
                    found=tuple(out_indices),
                    remedy="lower the indices or raise depth",
                )
            self.out_indices = tuple(i % depth for i in out_indices)
        self.embed_dims = embed_dims
        self.dense_size = (dense_size, dense_size) if isinstance(dense_size, int) else dense_size
        self.tokenizer = build_tokenizer(tokenizer, embed_dims)
        if seed_skip and not (hasattr(self.tokenizer, "perceive") and out_indices is not None):
            raise ConfigError(
                "model.backbone.seed_skip needs a tokenizer with seeds, and out_indices",
                expected="a hook.HookTokenizer and the blocks whose tokens become dense maps",
                found=f"{type(self.tokenizer).__name__}, out_indices={out_indices}",
                remedy="leave seed_skip out, or change the tokenizer",
            )
        if seed_skip not in (False, True, "stem"):
            raise ConfigError(
                "model.backbone.seed_skip",
                expected="True, False or 'stem'",
                found=repr(seed_skip),
                remedy="choose one of these",
            )
        self.seed_skip = seed_skip
        if seed_skip == "stem":
            self.tokenizer.keeps_stem = True
        self.has_regions = getattr(self.tokenizer, "group", None) is not None
        if region_levels and not (seed_skip and self.has_regions):
            raise ConfigError(
                "model.backbone.region_levels needs regions, and seed_skip",
                expected="a hook.HookTokenizer of preset 'objects', and seed_skip=True",
                found=f"{type(self.tokenizer).__name__} "
                f"(preset {getattr(self.tokenizer, 'preset', None)!r}), seed_skip={seed_skip}",
                remedy="leave region_levels out, or change the tokenizer",
            )
        self.region_levels = region_levels
        if explained is not None and not (
            hasattr(self.tokenizer, "count_tokens") and 0 < explained <= 1
        ):
            raise ConfigError(
                "model.backbone.explained cannot be used",
                expected="a share of the variance, above 0 and up to 1, and a hook.HookTokenizer",
                found=f"{explained} with {type(self.tokenizer).__name__}",
                remedy="leave explained out, or change the tokenizer",
            )
        self.explained = explained
        norm_layer = partial(nn.LayerNorm, eps=norm_eps)
        self.blocks = nn.ModuleList(
            Block(
                dim=embed_dims,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                init_values=layer_scale,
                drop_path=drop_path_rate * i / max(depth - 1, 1),
                norm_layer=norm_layer,
            )
            for i in range(depth)
        )
        self.norm = norm_layer(embed_dims) if final_norm else nn.Identity()
        if frozen_stages not in range(-1, depth + 1):
            raise ConfigError(
                f"model.backbone.frozen_stages={frozen_stages!r}",
                expected=f"-1 for none, 0 for the tokenizer, up to {depth} for that many blocks",
                found=frozen_stages,
                remedy="correct frozen_stages",
            )
        self.frozen_stages = frozen_stages
        for part in self._frozen():
            part.requires_grad_(False)

    def _frozen(self) -> list[nn.Module]:
        """Return the parts that are not trained."""
        stages = [self.tokenizer, *self.blocks]
        frozen = stages[: self.frozen_stages + 1]
        return [*frozen, self.norm] if len(frozen) == len(stages) else frozen

    def train(self, mode: bool = True) -> "TokenViT":
        """Set training mode, except for frozen parts."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Return the layer of a parameter, and the number of layers, for layer-wise decay.

        Args:
            param_name: Name of the parameter in a model.
            prefix: Prefix of the backbone's parameters in it.

        Returns:
            0 for the tokenizer, i + 1 for block i, else the last layer; and ``depth + 2``.
        """
        layers = len(self.blocks) + 2
        part, *rest = param_name.removeprefix(prefix).split(".")
        if param_name.startswith(prefix) and part in ("tokenizer", "blocks"):
            return (0 if part == "tokenizer" else int(rest[0]) + 1), layers
        return layers - 1, layers

    def init_weights(self) -> None:
        """Keep PyTorch's initialisation, as the paper does, or load ``init_cfg``'s checkpoint.

        Raises:
            CheckpointError: The checkpoint is missing, unsafe, or matches none of the blocks.
            ConfigError: The type of ``init_cfg`` is not ``'Pretrained'``.
        """
        for cfg in [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg or []:
            if cfg.get("type") != "Pretrained":
                raise ConfigError(
                    "model.backbone.init_cfg.type is not supported",
                    expected="'Pretrained' with checkpoint=<file or timm model name>",
                    found=cfg.get("type"),
                    remedy="leave init_cfg out for the paper's initialisation",
                )
            load_pretrained(self, cfg["checkpoint"])
        self._is_init = True

    def forward(
        self, images: Tensor, num_tokens: int | None = None, facts: ImageFacts | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Extract features.

        Args:
            images: (B, C, H, W) normalised images.
            num_tokens: Number of tokens of every image; None uses the tokenizer's, or outside
                training that of ``explained``.
            facts: Validity, resolution, dates and wavelengths; those that the tokenizer does not
                support are ignored.

        Returns:
            Without ``out_indices`` tokens (B, N, D), class token included, images with fewer than
            N tokens padded with the mean of their tokens; else a tuple of dense maps (B, D, h, w),
            with ``seed_skip`` followed by the seeds (B, seed_dims, h', w'), with ``region_levels``
            by L partitions of the seeds (B, L, h', w'), int64, -1 where not valid.
        """
        return self._features(self._passes(images, num_tokens, facts))

    def forward_with_tokens(
        self, images: Tensor, num_tokens: int | None = None, facts: ImageFacts | None = None
    ) -> tuple[Tensor | tuple[Tensor, ...], list[ImageTokens]]:
        """Return the features of :meth:`forward` and the tokens of the B images."""
        passes = self._passes(images, num_tokens, facts, with_seeds=True)
        tokens: dict[int, ImageTokens] = {}
        for group in passes:
            index = range(len(images)) if group.index is None else group.index.tolist()
            last = group.after[-1][:, -group.output.num_tokens :]  # without the class token
            for row, image in enumerate(index):
                rows = slice(row, row + 1)
                tokens[image] = ImageTokens(
                    group.output.take(rows),
                    last[row],
                    None if group.seeds is None else group.seeds.take(rows),
                    group.images[row],
                    None if group.valid is None else group.valid[row],
                )
        return self._features(passes), [tokens[image] for image in range(len(images))]

    def forward_tokens(self, images: Tensor) -> tuple[TokenizerOutput, list[Tensor]]:
        """Run tokenizer and blocks on images (B, C, H, W) with the same number of tokens.

        Returns:
            The tokenizer's output, and the tokens (B, N, D) of the blocks at ``out_indices`` (in
            their order), or of the last block only.
        """
        group = self._pass(images, None, None, ImageFacts().accepted_by(self.tokenizer))
        return group.output, self._chosen(group)

    def spread(self, images: Tensor, output: TokenizerOutput, tokens: Tensor) -> Tensor:
        """Project tokens to a dense map (B, D, h, w).

        Args:
            images: (B, C, H, W) images; only their size is used.
            output: The tokenizer's output for them.
            tokens: (B, N, D) tokens of a block, class token included.
        """
        if self.dense_size is not None:
            size = self.dense_size
        elif output.assign in ("grid", "token"):
            size = output.grid_size
        else:
            size = max(images.shape[-2] // 16, 1), max(images.shape[-1] // 16, 1)
        return output.dense_features(tokens[:, tokens.shape[1] - output.num_tokens :], size)

    def _passes(
        self,
        images: Tensor,
        num_tokens: int | None,
        facts: ImageFacts | None,
        with_seeds: bool = False,
    ) -> list["_Pass"]:
        """Run tokenizer and blocks on groups of images with equal numbers of tokens."""
        facts = (facts or ImageFacts()).accepted_by(self.tokenizer)
        check_facts(self.tokenizer, images, facts)
        adaptive = self.explained is not None and not self.training and num_tokens is None
        counts = packed = None
        with_seeds = (with_seeds and hasattr(self.tokenizer, "perceive")) or bool(self.seed_skip)
        with_seeds |= self.has_regions or adaptive
        seeds = self.tokenizer.perceive(images, facts) if with_seeds else None
        if adaptive:
            counts = self.tokenizer.count_tokens(seeds, self.explained)
        elif self.has_regions and seeds.valid is not None:
            num_tokens = num_tokens or self.tokenizer.draw_tokens()
            # An image with fewer valid seeds has fewer tokens.
            counts = seeds.valid.flatten(1).sum(dim=1).clamp(min=1, max=num_tokens)
            if (counts == num_tokens).all():
                counts = None
        elif hasattr(self.tokenizer, "unpack") and num_tokens is None:
            packed = self.tokenizer.encode(self.tokenizer.embed(images, facts))
            # Patches without data have no token.
            if len(set(packed.counts)) > 1:
                counts = torch.tensor(packed.counts, device=images.device)
        if counts is None:
            return [self._pass(images, seeds, num_tokens, facts, packed)]
        passes = []
        for count in counts.unique().tolist():
            index = (counts == count).nonzero()[:, 0]
            part = (None, num_tokens) if seeds is None else (seeds.take(index), count)
            some = None if packed is None else packed.take(index)
            group = self._pass(images[index], *part, facts.take(index), some)
            passes.append(group._replace(index=index))
        return passes

    def _pass(
        self,
        images: Tensor,
        seeds: SeedMap | None,
        num_tokens: int | None,
        facts: ImageFacts,
        packed: Packed | None = None,
    ) -> "_Pass":
        """Run tokenizer and blocks on images with the same number of tokens."""
        regions = None
        if self.has_regions:
            hierarchy = self.tokenizer.hierarchy(seeds)
            output = self.tokenizer.vectorize(seeds, num_tokens, hierarchy)
            counts = (output.num_tokens // 4**level for level in range(self.region_levels))
            cuts = [hierarchy.cut(max(n, 1)).clamp(max=max(n, 1) - 1) for n in counts]
            regions = torch.stack(cuts, dim=1) if cuts else None
        elif seeds is not None:
            output = self.tokenizer.vectorize(seeds, num_tokens)
        elif packed is not None:
            output = self.tokenizer.unpack(packed)
        else:
            options = {} if num_tokens is None else {"num_tokens": num_tokens}
            options |= {"facts": facts} if facts else {}
            output = self.tokenizer(images, **options)
        x = output.tokens
        after = []
        for block in self.blocks:
            x = block(x)
            after.append(x)
        after = after or [x]
        after[-1] = self.norm(after[-1])
        return _Pass(images, facts.valid, seeds, output, after, regions=regions)

    def _chosen(self, group: "_Pass") -> list[Tensor]:
        """Return the tokens of the blocks at ``out_indices``, or of the last one."""
        return [group.after[i] for i in self.out_indices or (-1,)]

    def _features(self, passes: list["_Pass"]) -> Tensor | tuple[Tensor, ...]:
        """Return tokens or dense maps in the order of the images."""
        parts = []
        maximum = max(group.output.num_tokens for group in passes)
        for group in passes:
            chosen = self._chosen(group)
            if self.out_indices is not None:
                maps = tuple(self.spread(group.images, group.output, tokens) for tokens in chosen)
                if self.seed_skip:
                    seeds = group.seeds
                    seeds = seeds.stem if self.seed_skip == "stem" else seeds.features
                    maps += (seeds.permute(0, 3, 1, 2),)  # B h w D -> B D h w
                if self.region_levels:
                    maps += (group.regions,)
                parts.append(maps)
                continue
            (tokens,), n = chosen, group.output.num_tokens
            if n < maximum:
                mean = tokens[:, -n:].mean(1, keepdim=True)
                tokens = torch.cat([tokens, mean.expand(-1, maximum - n, -1)], dim=1)
            parts.append((tokens,))
        levels = parts[0]
        if passes[0].index is not None:
            order = torch.cat([group.index for group in passes]).argsort()
            levels = tuple(torch.cat(level)[order] for level in zip(*parts, strict=True))
        return levels[0] if self.out_indices is None else levels


class _Pass(NamedTuple):
    """Images processed together, with the same number of tokens."""

    images: Tensor
    valid: Tensor | None
    seeds: SeedMap | None
    output: TokenizerOutput
    after: list[Tensor]
    """(B, N, D) tokens after each block; those of the last block after the final norm."""
    index: Tensor | None = None
    """Indexes of the images in their batch; None: all."""
    regions: Tensor | None = None
    """(B, L, h, w) partitions of the seeds; None without ``region_levels``."""
