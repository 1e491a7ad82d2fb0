"""Optional facts about images: validity, resolution, dates and wavelengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from torch import Tensor, nn


@dataclass(frozen=True)
class ImageFacts:
    """Optional facts about a batch of images, or of time series of T images.

    Attributes:
        valid: (B, H, W), or (B, T, H, W) of series, bool; invalid pixels are ignored. None: all
            are valid.
        resolution: Ground size of a pixel in metres, one number or (B,). None, or NaN for single
            images: that of training.
        dates: (B, T) days since any day, for example 1970-01-01. NaN: the image is missing. None:
            unknown.
        wavelengths: (C,) or (B, C) central wavelengths of the bands in nanometres; None: those of
            training.
    """

    valid: Tensor | None = None
    resolution: float | Tensor | None = None
    dates: Tensor | None = None
    wavelengths: Tensor | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, one.name) is not None for one in fields(self))

    def take(self, index: Tensor) -> ImageFacts:
        """Select images of the batch."""
        several = isinstance(self.resolution, Tensor) and self.resolution.ndim
        bands = self.wavelengths
        return ImageFacts(
            None if self.valid is None else self.valid[index],
            self.resolution[index] if several else self.resolution,
            None if self.dates is None else self.dates[index],
            bands if bands is None or bands.ndim == 1 else bands[index],
        )

    def change_images(self, change: Callable[[Tensor], Tensor]) -> ImageFacts:
        """Apply a change of the images, such as a crop, to the maps (rows and columns last)."""
        return self if self.valid is None else replace(self, valid=change(self.valid))

    def accepted_by(self, tokenizer: nn.Module) -> ImageFacts:
        """Keep only the facts ``f`` for which a tokenizer has ``takes_f``, as ``takes_valid``."""
        return ImageFacts(
            **{
                one.name: getattr(self, one.name)
                for one in fields(self)
                if getattr(tokenizer, f"takes_{one.name}", False)
            }
        )
