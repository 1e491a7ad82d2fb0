"""Patch embedding behind the tokenizer contract: the baseline HOOK is measured against."""

import torch
from torch import Tensor, nn

from hook.tokenizers.hook_tokenizer import to_pair
from hook.tokenizers.output import TokenizerOutput


class PatchEmbedTokenizer(nn.Module):
    """Cut the image into squares and project each: one strided convolution with bias.

    Args:
        img_size: Image size in pixels, a side or (height, width). Only learned positions tie the
            weights to it.
        patch_size: Side of a square in pixels; of a side it does not divide, the last rows or
            columns belong to no patch, as in the reference.
        in_channels: Number of bands.
        embed_dims: Width of the tokens.
        with_pos_embed: Add a learned position to every patch. The paper's baseline has none, the
            ViT that people use has them.
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
            ValueError: The images have another band count, are smaller than a patch, or have
                another size than the learned positions.
        """
        b, c, h, w = images.shape
        if c != self.in_channels:
            raise ValueError(
                f"images have {c} bands, the tokenizer was made for {self.in_channels}"
            )
        grid = h // self.patch_size, w // self.patch_size
        if self.pos_embed is not None and grid != self.grid_size:
            raise ValueError(
                f"images are {h} x {w} pixels, the learned positions were made for "
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
