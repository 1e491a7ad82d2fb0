"""A backbone without tokens, to show what tokens add."""

from mmengine.model import BaseModule
from torch import Tensor

from hook.errors import ConfigError
from hook.models.token_vit import build_tokenizer
from hook.registry import MODELS


@MODELS.register_module()
class SeedBackbone(BaseModule):
    """The stem of a HOOK tokenizer alone: its seeds, before they know of each other.

    Args:
        tokenizer: Config of a :class:`hook.tokenizers.HookTokenizer`; only its stem is built into
            the model.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ConfigError: The tokenizer has no stem.
    """

    def __init__(self, tokenizer: dict, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        whole = build_tokenizer(tokenizer, embed_dims=tokenizer.get("embed_dims", 8))
        if not hasattr(whole, "stem"):
            raise ConfigError(
                "model.backbone.tokenizer has no stem",
                expected="a hook.HookTokenizer",
                found=type(whole).__name__,
                remedy="set backbone.tokenizer to a hook.HookTokenizer",
            )
        self.stem = whole.stem
        self.embed_dims = whole.seed_dims

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Map images (B, C, H, W) to seeds (B, D, H / 4, W / 4), in a tuple."""
        return (self.stem(images),)
