"""Optional facts about images: validity and resolution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn


@dataclass(frozen=True)
class ImageFacts:
    """Optional facts about a batch of images.

    Attributes:
        valid: (B, H, W) bool; invalid pixels are ignored. None: all are valid.
        resolution: Ground size of a pixel in metres, one number or (B,). None, or NaN for single
            images: that of training.
    """

    valid: Tensor | None = None
    resolution: float | Tensor | None = None

    def __bool__(self) -> bool:
        return self.valid is not None or self.resolution is not None

    def take(self, index: Tensor) -> ImageFacts:
        """Select images of the batch."""
        several = isinstance(self.resolution, Tensor) and self.resolution.ndim
        return ImageFacts(
            None if self.valid is None else self.valid[index],
            self.resolution[index] if several else self.resolution,
        )

    def change_images(self, change: Callable[[Tensor], Tensor]) -> ImageFacts:
        """Apply a change of the images, such as a crop, to the maps (rows and columns last)."""
        return self if self.valid is None else replace(self, valid=change(self.valid))

    def accepted_by(self, tokenizer: nn.Module) -> ImageFacts:
        """Keep only the facts for which a tokenizer has ``takes_valid`` or ``takes_resolution``."""
        return ImageFacts(
            self.valid if getattr(tokenizer, "takes_valid", False) else None,
            self.resolution if getattr(tokenizer, "takes_resolution", False) else None,
        )
