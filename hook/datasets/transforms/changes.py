"""Changes of images that keep their content, to test whether their representation stays."""

import math

import cv2
import numpy as np
from mmcv.transforms.base import BaseTransform

from hook.errors import ConfigError
from hook.registry import TRANSFORMS

ANGLES, SCALES = (0, 90, 180, 270), (1.0, 0.75, 0.5, 0.25)


def draw_rotation(index: int, seed: int = 42) -> tuple[int, float]:
    """Return the angle in degrees and the scale of the image with this number."""
    draws = np.random.RandomState(seed + index)
    return int(draws.choice(ANGLES)), float(draws.choice(SCALES))


def rotate(image: np.ndarray, angle: int) -> np.ndarray:
    """Turn an (H, W, C) image counterclockwise by a multiple of 90 degrees."""
    return np.ascontiguousarray(np.rot90(image, angle // 90))


def add_noise(
    image: np.ndarray,
    sigma: float,
    index: int,
    seed: int = 42,
    data_range: tuple[float, float] = (0, 255),
) -> np.ndarray:
    """Add Gaussian noise to an (H, W, C) image, clip it, and truncate it if it holds integers.

    Args:
        image: Values of any type, which is kept.
        sigma: Standard deviation as a share of the range.
        index: Number of the image, added to the seed.
        seed: Seed of the first image.
        data_range: Lowest and highest value.
    """
    low, high = data_range
    noise = np.random.RandomState(seed + index).normal(0, sigma * (high - low), image.shape)
    return np.clip(image + noise, low, high).astype(image.dtype)


@TRANSFORMS.register_module()
class ChangeImage(BaseTransform):
    """Turn and shrink an image, or add noise to it, as SE-CKNNA does.

    The change of an image depends on its number (``sample_idx``) alone. Its name, ``rotated`` or
    ``noise0.05``, stands in the metainfo ``change``, by which ``hook.AlignmentMetric`` knows it.
    Shrunk images differ in size: load them with a batch size of 1.

    Args:
        noise: Standard deviation of the noise as a share of the range; None: turn by a drawn
            multiple of 90 degrees and scale by 1, 0.75, 0.5 or 0.25.
        data_range: Lowest and highest value of the images.
        seed: Seed of the first image.

    Reference:
        VFM-VAE, arXiv:2510.18457.
    """

    def __init__(
        self,
        noise: float | None = None,
        data_range: tuple[float, float] = (0, 255),
        seed: int = 42,
    ) -> None:
        if noise is not None and not noise > 0:
            raise ConfigError(
                "hook.ChangeImage: noise",
                expected="above 0, or None",
                found=noise,
                remedy="choose a positive standard deviation, or leave the option out",
            )
        self.noise, self.data_range, self.seed = noise, tuple(data_range), seed

    def transform(self, results: dict) -> dict:
        """Change one sample: ``img`` and, where pixels move, ``seg_fields``."""
        index = results["sample_idx"]
        if self.noise is not None:
            results["img"] = add_noise(
                results["img"], self.noise, index, self.seed, self.data_range
            )
            results["change"] = f"noise{self.noise:g}"
            return results
        angle, scale = draw_rotation(index, self.seed)
        for key in ("img", *results.get("seg_fields", ())):
            turned = rotate(results[key], angle)
            size = [max(1, math.floor(side * scale)) for side in turned.shape[1::-1]]
            how = cv2.INTER_AREA if key in ("img", "valid") else cv2.INTER_NEAREST
            bands = turned.reshape(*turned.shape[:2], -1)  # cv2 takes up to four at a time
            bands = (bands == 1).astype(np.float32) if key == "valid" else bands
            shrunk = [cv2.resize(band, size, interpolation=how) for band in cv2.split(bands)]
            shrunk = np.stack(shrunk, axis=-1).reshape(*size[::-1], *turned.shape[2:])
            # A pixel of the image is the mean of others, which must all be valid.
            results[key] = (shrunk > 1 - 1e-4).astype(np.uint8) if key == "valid" else shrunk
        results["img_shape"] = results["img"].shape[:2]
        results.pop("geo", None)
        results["resolution"] = math.nan
        results["change"] = "rotated"
        return results

    def __repr__(self) -> str:
        return f"ChangeImage(noise={self.noise}, data_range={self.data_range}, seed={self.seed})"
