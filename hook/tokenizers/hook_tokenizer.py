"""The homogeneous tokenizer, assembled from stem, perception and vectorization."""

import torch
from torch import Tensor, nn

from hook.tokenizers.output import TokenizerOutput
from hook.tokenizers.perception import ObjectPerception
from hook.tokenizers.stem import SeedStem
from hook.tokenizers.vectorization import ObjectVectorization

PRESETS: dict[str, dict] = {
    # The paper's tokenizer and its official implementation.
    "reference": dict(
        seed_dims=512, num_tokens=6, perception_heads=8, perception_mlp_ratio=4.0, assign="seed"
    ),
}
"""Defaults of each preset; a keyword of :class:`HookTokenizer` overrides its preset's value."""


def to_pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """Give (value, value) for a number and (height, width) as it is for a pair."""
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


class HookTokenizer(nn.Module):
    """Homogeneous visual tokenizer: one token per semantically independent region.

    Image -> 4x4-pixel seeds (:class:`SeedStem`) -> learned positions -> object perception
    (:class:`ObjectPerception`) -> object vectorization (:class:`ObjectVectorization`).

    Args:
        preset: Name of a set of defaults, ``"reference"`` (the paper).
        img_size: Image size in pixels, a side or (height, width). As in the reference, the
            learned positions tie the weights to it; of a side that 4 does not divide, the last
            rows or columns have no seed.
        in_channels: Number of bands.
        embed_dims: Width of the tokens.
        seed_dims: Width of the seeds.
        num_tokens: Number of tokens N.
        with_cls_token: Put a learned class token in front of the tokens.
        assign: What the assignment means; ``"seed"``: softmax over the seeds for each token.
        perception_heads: Attention heads of the object perception module.
        perception_mlp_ratio: Hidden width of its feed-forward halves.
        perception_window: Window of its first block in seeds, a side or (height, width);
            None takes half the grid's side, as the paper does.

    Raises:
        ValueError: An argument is out of its range, or the preset is unknown.

    Example:
        >>> tokenizer = HookTokenizer(img_size=64, seed_dims=32, embed_dims=48).eval()
        >>> tokens, assignment = tokenizer(torch.rand(2, 3, 64, 64))
        >>> tokens.shape, assignment.shape
        (torch.Size([2, 6, 48]), torch.Size([2, 6, 16, 16]))

    Reference:
        Shao et al. (2024), arXiv:2403.18593, section 3.
    """

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
        perception_heads: int | None = None,
        perception_mlp_ratio: float | None = None,
        perception_window: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; there are {sorted(PRESETS)}")
        given = dict(
            seed_dims=seed_dims,
            num_tokens=num_tokens,
            perception_heads=perception_heads,
            perception_mlp_ratio=perception_mlp_ratio,
            assign=assign,
        )
        chosen = PRESETS[preset] | {k: v for k, v in given.items() if v is not None}
        self.img_size = to_pair(img_size)
        self.grid_size = self.img_size[0] // SeedStem.stride, self.img_size[1] // SeedStem.stride
        if min(self.grid_size) < 1:
            raise ValueError(f"img_size must be at least 4 x 4 pixels, got {self.img_size}")
        for name, least in (("seed_dims", 2), ("num_tokens", 1)):
            if chosen[name] < least:
                raise ValueError(f"{name} must be at least {least}, got {chosen[name]}")
        if chosen["assign"] != "seed":
            raise ValueError(f"assign must be 'seed', got {chosen['assign']!r}")
        if perception_window is None:
            window = self.grid_size[0] // 2, self.grid_size[1] // 2
        else:
            window = to_pair(perception_window)

        self.preset = preset
        self.assign = chosen["assign"]
        self.in_channels = in_channels
        self.embed_dims = embed_dims
        self.num_tokens = chosen["num_tokens"]
        self.with_cls_token = with_cls_token
        width = chosen["seed_dims"]
        self.stem = SeedStem(in_channels, width)
        self.pos_embed = nn.Parameter(
            torch.randn(1, self.grid_size[0] * self.grid_size[1], width) * 0.02
        )
        self.perception = ObjectPerception(
            width, chosen["perception_heads"], chosen["perception_mlp_ratio"], window
        )
        self.vectorization = ObjectVectorization(width, embed_dims, self.num_tokens)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims)) if with_cls_token else None

    def forward(self, images: Tensor) -> TokenizerOutput:
        """Tokenise images.

        Args:
            images: (B, C, H, W) normalised images of ``img_size``.

        Returns:
            Tokens (B, N, D), or (B, 1 + N, D) with the class token in front, and their assignment
            (B, N, H // 4, W // 4).

        Raises:
            ValueError: The images have another size or band count than the tokenizer.
        """
        b, c, h, w = images.shape
        if c != self.in_channels:
            raise ValueError(
                f"images have {c} bands, the tokenizer was made for {self.in_channels}"
            )
        if (h, w) != self.img_size:
            raise ValueError(
                f"images are {h} x {w} pixels, the tokenizer was made for "
                f"{self.img_size[0]} x {self.img_size[1]}"
            )
        seeds = self.stem(images).permute(0, 2, 3, 1)  # B D h w -> B h w D
        seeds = seeds + self.pos_embed.reshape(1, *self.grid_size, -1)
        seeds = self.perception(seeds)
        tokens, attention = self.vectorization(seeds.flatten(1, 2))
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(b, -1, -1), tokens], dim=1)
        return TokenizerOutput(tokens, attention.reshape(b, self.num_tokens, *self.grid_size))
