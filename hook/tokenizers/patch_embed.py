"""Patch embedding with the interface of a tokenizer: the baseline for HOOK."""

import torch
from torch import Tensor, nn

from hook.tokenizers.hook_tokenizer import to_pair
from hook.tokenizers.output import TokenizerOutput


class PatchEmbedTokenizer(nn.Module):
    """Linear projection of square patches: one strided convolution with bias.

    Args:
        img_size: Image size in pixels, a side or (height, width); fixed only with learned
            positions.
        patch_size: Side of a patch in pixels; of a side not divisible by it, the last rows or
            columns belong to no patch, as in the reference.
        in_channels: Number of bands.
        embed_dims: Width of the tokens.
        with_pos_embed: Add a learned position to every patch, as in ViT but not in the paper's
            baseline.
        with_cls_token: Put a learned class token in front of the tokens.

    Raises:
        ValueError: The image is smaller than a patch.

    Reference:
        Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021; without positions: the
        baseline of Shao et al. (2024).
    """

    assign = "grid"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        embed_dims: int = 768,
        with_pos_embed: bool = False,
        with_cls_token: bool = False,
    ) -> None:
        super().__init__()
        self.img_size = to_pair(img_size)
        self.grid_size = self.img_size[0] // patch_size, self.img_size[1] // patch_size
        if min(self.grid_size) < 1:
            raise ValueError(f"img_size {self.img_size} is smaller than a patch of {patch_size}")
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.embed_dims = embed_dims
        self.num_tokens = self.grid_size[0] * self.grid_size[1]
        self.with_cls_token = with_cls_token
        self.proj = nn.Conv2d(in_channels, embed_dims, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims)) if with_cls_token else None
        self.pos_embed = None
        if with_pos_embed:
            self.pos_embed = nn.Parameter(torch.empty(1, self.num_tokens, embed_dims))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> TokenizerOutput:
        """Tokenise images.

        Args:
            images: (B, C, H, W) normalised images.

        Returns:
            Tokens (B, N, D), or (B, 1 + N, D) with the class token in front; token i is cell i
            of the grid of patches.

        Raises:
            ValueError: The images have a wrong number of bands, are smaller than a patch, or have
                a different size than the learned positions.
        """
        b, c, h, w = images.shape
        if c != self.in_channels:
            raise ValueError(f"images have {c} bands, the tokenizer expects {self.in_channels}")
        grid = h // self.patch_size, w // self.patch_size
        if self.pos_embed is not None and grid != self.grid_size:
            raise ValueError(
                f"images are {h} x {w} pixels, the learned positions are for "
                f"{self.img_size[0]} x {self.img_size[1]}"
            )
        if min(grid) < 1:
            raise ValueError(f"images are {h} x {w} pixels, a patch is {self.patch_size}")
        tokens = self.proj(images).flatten(2).transpose(1, 2)  # B D h w -> B N D
        if self.pos_embed is not None:
            tokens = tokens + self.pos_embed
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(b, -1, -1), tokens], dim=1)
        return TokenizerOutput(tokens, None, self.assign, grid, self.patch_size)
