"""Backbone without tokens, as a baseline."""

from mmengine.model import BaseModule
from torch import Tensor

from hook.errors import ConfigError
from hook.models.token_vit import build_tokenizer
from hook.registry import MODELS


@MODELS.register_module()
class SeedBackbone(BaseModule):
    """Stem of a HOOK tokenizer: its seeds before object perception.

    Args:
        tokenizer: Config of a :class:`hook.tokenizers.HookTokenizer`; only its stem is used.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: The tokenizer has no stem.
    """

    def __init__(self, tokenizer: dict, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        built = build_tokenizer(tokenizer, embed_dims=tokenizer.get("embed_dims", 8))
        if not hasattr(built, "stem"):
            raise ConfigError(
                "model.backbone.tokenizer has no stem",
                expected="a hook.HookTokenizer",
                found=type(built).__name__,
                remedy="set backbone.tokenizer to a hook.HookTokenizer",
            )
        self.stem = built.stem
        self.embed_dims = built.seed_dims

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Map images (B, C, H, W) to seeds (B, D, H / 4, W / 4), in a tuple."""
        return (self.stem(images),)
