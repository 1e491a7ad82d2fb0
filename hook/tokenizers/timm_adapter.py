"""HOOK as timm's patch embedding: ``timm.create_model(..., embed_layer=HookEmbed)``.

Only this module uses timm's spelling (``embed_dim``, ``in_chans``).
"""

from functools import partial

from torch import Tensor, nn

from hook.tokenizers.hook_tokenizer import HookTokenizer, to_pair


class HookEmbed(nn.Module):
    """A :class:`HookTokenizer` with the interface of timm's ``PatchEmbed``.

    Build the ViT with ``pos_embed='none'``, as timm's positions are those of patches and seeds
    already have positions, and use timm's class token. Set options of HOOK with :meth:`configure`::

        embed = HookEmbed.configure(num_tokens=8, seed_dims=256)
        model = timm.create_model("vit_base_patch16_224", embed_layer=embed, pos_embed="none")

    Args:
        img_size: Image size in pixels, a side or (height, width).
        patch_size: Unused, for compatibility with timm: a seed is 4 x 4 pixels.
        in_chans: Number of bands.
        embed_dim: Width of the tokens.
        norm_layer: Norm applied to the tokens; None for none.
        bias: Unused, for compatibility with timm: the tokenizer has its own biases.
        device: As in timm's ``PatchEmbed``.
        dtype: As in timm's ``PatchEmbed``.
        strict_img_size: Like the next two, set by timm for dynamic image sizes.
        dynamic_img_pad: See ``strict_img_size``.
        output_fmt: See ``strict_img_size``.
        **hook_options: Options of :class:`HookTokenizer`.

    Raises:
        ValueError: The ViT uses dynamic image sizes, which need a grid of patches.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        norm_layer=None,
        bias: bool = True,
        device=None,
        dtype=None,
        strict_img_size: bool = True,
        dynamic_img_pad: bool = False,
        output_fmt: str | None = None,
        **hook_options,
    ) -> None:
        super().__init__()
        if not strict_img_size or dynamic_img_pad or output_fmt is not None:
            raise ValueError(
                "HookEmbed returns a set of tokens, not a grid of patches: build the model with "
                "dynamic_img_size=False and dynamic_img_pad=False"
            )
        self.tokenizer = HookTokenizer(
            img_size=img_size, in_channels=in_chans, embed_dims=embed_dim, **hook_options
        ).to(device=device, dtype=dtype)
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()
        self.img_size = self.tokenizer.img_size
        self.grid_size = self.tokenizer.grid_size
        self.num_patches = self.tokenizer.num_tokens
        self.patch_size = (self.tokenizer.stride, self.tokenizer.stride)

    @classmethod
    def configure(cls, **hook_options) -> partial:
        """Bind options of :class:`HookTokenizer`, for ``embed_layer``."""
        return partial(cls, **hook_options)

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Return the pixels per seed."""
        return self.patch_size[0] if as_scalar else self.patch_size

    def set_input_size(self, img_size=None, patch_size=None) -> None:
        """Change the image size; the weights and the seed size of 4 x 4 pixels stay the same."""
        if img_size is not None:
            self.img_size = to_pair(img_size)
            stride = self.tokenizer.stride
            self.grid_size = tuple(-(-side // stride) for side in self.img_size)

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Raise ValueError: tokens have no grid to be reshaped to."""
        raise ValueError(
            f"{self.num_patches} HOOK tokens of a {img_size[0]} x {img_size[1]} image cannot be "
            "reshaped to a grid; call hook.tokenizers.dense_intermediate_layers(model, images, n) "
            "for dense maps through the assignment, or pass reshape=False / output_fmt='NLC'"
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to tokens (B, N, D)."""
        return self.norm(self.tokenizer(x).tokens)


def dense_intermediate_layers(
    model: nn.Module, images: Tensor, n: int | list[int] = 1, size: tuple[int, int] | None = None
) -> list[Tensor]:
    """Return dense maps of a timm ViT's intermediate layers, projected through the assignment.

    Args:
        model: A timm ViT built with ``embed_layer=HookEmbed``.
        images: (B, C, H, W) normalised images.
        n: The last n blocks, or the indices of the blocks.
        size: Height and width of the maps; None uses a cell per 16 x 16 pixels.

    Returns:
        One (B, D, h, w) map per chosen block.

    Raises:
        ValueError: The model's ``patch_embed`` is not a :class:`HookEmbed`.
    """
    embed = getattr(model, "patch_embed", None)
    if not isinstance(embed, HookEmbed):
        raise ValueError(
            f"model.patch_embed is {type(embed).__name__}, expected HookEmbed; build the model "
            "with timm.create_model(..., embed_layer=HookEmbed)"
        )
    outputs = []
    handle = embed.tokenizer.register_forward_hook(
        lambda module, inputs, output: outputs.append(output)
    )
    try:
        layers = model.forward_intermediates(
            images, indices=n, output_fmt="NLC", intermediates_only=True
        )
    finally:
        handle.remove()
    size = size or (max(images.shape[-2] // 16, 1), max(images.shape[-1] // 16, 1))
    return [outputs[0].dense_features(tokens, size) for tokens in layers]
