"""What is known of images beside their pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn


@dataclass(frozen=True)
class ImageFacts:
    """Optional facts about a batch of images; a tokenizer says which of them it takes.

    Attributes:
        valid: (B, H, W) bool; pixels that are not valid contribute nothing, whatever their
            values. None: all are valid.
        resolution: Ground size of a pixel in metres, one number or (B,). None, and NaN for an
            image of several: that of training.
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
        """Apply to the maps what was done to the images, such as a crop or a quarter turn.

        Args:
            change: Takes and gives a tensor whose last two axes are rows and columns.
        """
        return self if self.valid is None else replace(self, valid=change(self.valid))

    def accepted_by(self, tokenizer: nn.Module) -> ImageFacts:
        """Leave out what a tokenizer does not take.

        Args:
            tokenizer: Its attributes ``takes_valid`` and ``takes_resolution`` say what it takes;
                one without them takes nothing.
        """
        return ImageFacts(
            self.valid if getattr(tokenizer, "takes_valid", False) else None,
            self.resolution if getattr(tokenizer, "takes_resolution", False) else None,
        )
