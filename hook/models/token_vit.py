"""Plain ViT blocks over the tokens of any tokenizer."""

from functools import partial
from typing import NamedTuple

import torch
from mmengine.model import BaseModule
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.models.pretrained import load_pretrained
from hook.registry import MODELS, TOKENIZERS
from hook.structures import ImageTokens
from hook.tokenizers import ImageFacts, SeedMap, TokenizerOutput


def build_tokenizer(cfg: dict, embed_dims: int) -> nn.Module:
    """Build a tokenizer of the registry, as wide as the backbone unless it says otherwise.

    Args:
        cfg: ``type`` and the tokenizer's options.
        embed_dims: Width of the backbone.

    Raises:
        ConfigError: The type is unknown, an option is, or the widths differ.
    """
    options = dict(embed_dims=embed_dims) | dict(cfg)
    name = options.pop("type", None)
    kind = TOKENIZERS.get(name) if isinstance(name, str) else name
    if kind is None:
        raise ConfigError(
            f"model.backbone.tokenizer.type: unknown tokenizer {name!r}",
            expected=f"one of {sorted('hook.' + key for key in TOKENIZERS.module_dict)}",
            found=name,
            remedy="correct the name, or register your class in hook.registry.TOKENIZERS",
        )
    if options["embed_dims"] != embed_dims:
        raise ConfigError(
            "model.backbone.tokenizer.embed_dims differs from the backbone's",
            expected=embed_dims,
            found=options["embed_dims"],
            remedy="leave embed_dims out of the tokenizer; it follows the backbone",
        )
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"model.backbone.tokenizer: {error}",
            found=dict(cfg),
            remedy=f"see the options of {kind.__name__}",
        ) from error


@MODELS.register_module()
class TokenViT(BaseModule):
    """Vision transformer blocks over the tokens of any registered tokenizer.

    With ``out_indices`` the backbone gives dense maps, one per chosen block, for any mmseg decode
    head; without, the tokens of the last block, for classification.

    Args:
        tokenizer: Config of a tokenizer in :data:`hook.registry.TOKENIZERS`; ``embed_dims``
            follows the backbone.
        embed_dims: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads of a block.
        mlp_ratio: Hidden width of a block's feed-forward half.
        qkv_bias: Give query, key and value a bias.
        out_indices: Blocks (from 0; negative counts from the end) whose tokens become dense maps.
        dense_size: Grid of the dense maps, a side or (height, width); None takes a cell per
            16 x 16 pixels where tokens choose seeds (the paper's 32 x 32 at 512 pixels), a cell
            per seed where seeds choose tokens, the patch grid for patch embedding.
        seed_skip: Also give the seeds (B, seed_dims, h, w), after the dense maps, for a neck that
            takes them, such as :class:`hook.models.SeedPyramid`.
        explained: Outside training, give every image as few tokens as explain this share of the
            variance of its seeds (``HookTokenizer.count_tokens``); None gives all images the
            tokenizer's number.
        final_norm: LayerNorm after the last block (the paper has none; weights of timm do).
        norm_eps: Epsilon of the LayerNorms (paper 1e-5; most timm weights were trained at 1e-6).
        layer_scale: Initial value of LayerScale, for weights that have it; None for none.
        drop_path_rate: Stochastic depth of the last block, growing linearly from zero.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads the blocks of a timm ViT from
            a file or by timm's name of the model.

    Raises:
        ConfigError: An option is out of its range.

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
        seed_skip: bool = False,
        explained: float | None = None,
        final_norm: bool = False,
        norm_eps: float = 1e-5,
        layer_scale: float | None = None,
        drop_path_rate: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
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
        self.seed_skip = seed_skip
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

    def init_weights(self) -> None:
        """Keep PyTorch's initialisation, as the paper does, or load ``init_cfg``'s checkpoint.

        Raises:
            CheckpointError: The checkpoint is missing, unsafe, or fits none of the blocks.
            ConfigError: ``init_cfg`` is of another type than ``'Pretrained'``.
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
            num_tokens: Number of tokens of every image; None takes the tokenizer's, or outside
                training what ``explained`` gives.
            facts: What else is known of the images; the tokenizer gets what it takes.

        Returns:
            Without ``out_indices`` tokens (B, N, D), class token included; else a tuple of dense
            maps (B, D, h, w), with ``seed_skip`` followed by the seeds (B, seed_dims, h', w').
            Where tokens are asked for, images with fewer than the most of the batch are filled up
            with the mean of their tokens, which leaves their mean as it is.
        """
        return self._features(self._passes(images, num_tokens, facts))

    def forward_with_tokens(
        self, images: Tensor, num_tokens: int | None = None, facts: ImageFacts | None = None
    ) -> tuple[Tensor | tuple[Tensor, ...], list[ImageTokens]]:
        """Extract features, and the tokens of each image that they were made from.

        Args:
            images: As in :meth:`forward`, like all that follow.
            num_tokens: Number of tokens of every image.
            facts: What else is known of the images.

        Returns:
            What :meth:`forward` gives, and the tokens of the B images.
        """
        passes = self._passes(images, num_tokens, facts, with_seeds=True)
        found: dict[int, ImageTokens] = {}
        for one in passes:
            index = range(len(images)) if one.index is None else one.index.tolist()
            last = one.after[-1][:, -one.output.num_tokens :]  # a class token comes first
            for row, image in enumerate(index):
                own = slice(row, row + 1)
                found[image] = ImageTokens(
                    one.output.take(own),
                    last[row],
                    None if one.seeds is None else one.seeds.take(own),
                    one.images[row],
                    None if one.valid is None else one.valid[row],
                )
        return self._features(passes), [found[image] for image in range(len(images))]

    def forward_tokens(self, images: Tensor) -> tuple[TokenizerOutput, list[Tensor]]:
        """Run tokenizer and blocks with one number of tokens for all images.

        Args:
            images: (B, C, H, W) normalised images.

        Returns:
            The tokenizer's output, and the tokens (B, N, D) of the blocks at ``out_indices`` (in
            their order), or of the last block only.
        """
        one = self._pass(images, None, None, ImageFacts().accepted_by(self.tokenizer))
        return one.output, self._chosen(one)

    def spread(self, images: Tensor, output: TokenizerOutput, tokens: Tensor) -> Tensor:
        """Spread tokens over the grid of the dense maps.

        Args:
            images: (B, C, H, W) images the tokens came from; only their size is used.
            output: The tokenizer's output for them.
            tokens: (B, N, D) tokens of a block, class token included.

        Returns:
            (B, D, h, w) dense map.
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
        """Run tokenizer and blocks; images with equal numbers of tokens go together."""
        facts = (facts or ImageFacts()).accepted_by(self.tokenizer)
        adaptive = self.explained is not None and not self.training and num_tokens is None
        with_seeds = (with_seeds and hasattr(self.tokenizer, "perceive")) or self.seed_skip
        seeds = self.tokenizer.perceive(images, facts) if with_seeds or adaptive else None
        if not adaptive:
            return [self._pass(images, seeds, num_tokens, facts)]
        counts = self.tokenizer.count_tokens(seeds, self.explained)
        passes = []
        for count in counts.unique().tolist():
            index = (counts == count).nonzero()[:, 0]
            one = self._pass(images[index], seeds.take(index), count, facts.take(index))
            passes.append(one._replace(index=index))
        return passes

    def _pass(
        self, images: Tensor, seeds: SeedMap | None, num_tokens: int | None, facts: ImageFacts
    ) -> "_Pass":
        """Run tokenizer and blocks with one number of tokens."""
        if seeds is not None:
            output = self.tokenizer.vectorize(seeds, num_tokens)
        else:
            options = {} if num_tokens is None else {"num_tokens": num_tokens}
            options |= {"facts": facts} if facts else {}
            output = self.tokenizer(images, **options)
        x = output.tokens
        after = []
        for block in self.blocks:
            x = block(x)
            after.append(x)
        after[-1] = self.norm(after[-1])
        return _Pass(images, facts.valid, seeds, output, after)

    def _chosen(self, one: "_Pass") -> list[Tensor]:
        """Tokens of the blocks at ``out_indices``, or of the last one."""
        return [one.after[i] for i in self.out_indices or (-1,)]

    def _features(self, passes: list["_Pass"]) -> Tensor | tuple[Tensor, ...]:
        """Give tokens or dense maps, the images in their order."""
        parts = []
        maximum = max(one.output.num_tokens for one in passes)
        for one in passes:
            chosen = self._chosen(one)
            if self.out_indices is not None:
                maps = tuple(self.spread(one.images, one.output, tokens) for tokens in chosen)
                if self.seed_skip:
                    maps += (one.seeds.features.permute(0, 3, 1, 2),)  # B h w D -> B D h w
                parts.append(maps)
                continue
            (tokens,), own = chosen, one.output.num_tokens
            if own < maximum:
                mean = tokens[:, -own:].mean(1, keepdim=True)
                tokens = torch.cat([tokens, mean.expand(-1, maximum - own, -1)], dim=1)
            parts.append((tokens,))
        levels = parts[0]
        if passes[0].index is not None:
            back = torch.cat([one.index for one in passes]).argsort()
            levels = tuple(torch.cat(level)[back] for level in zip(*parts, strict=True))
        return levels[0] if self.out_indices is None else levels


class _Pass(NamedTuple):
    """Images that went through tokenizer and blocks together."""

    images: Tensor
    valid: Tensor | None
    seeds: SeedMap | None
    output: TokenizerOutput
    after: list[Tensor]
    """(B, N, D) tokens after each block, the last ones after the final norm."""
    index: Tensor | None = None
    """Places of the images in their batch; None: all of it."""
