"""Measures of a decoded image against its original, on the valid pixels.

References:
    Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
    TIP 13(4), 2004: SSIM. Yuhas et al., "Discrimination among semi-arid landscape endmembers using
    the spectral angle mapper algorithm", 1992. Wald, "Quality of high resolution synthesised
    images: is there a simple criterion?", 2000: ERGAS. Canny, IEEE TPAMI 8(6), 1986: edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.feature import canny
from torch import Tensor
from torchmetrics.functional.image import (
    error_relative_global_dimensionless_synthesis,
    spectral_angle_mapper,
    structural_similarity_index_measure,
)

from hook.errors import ConfigError, DataError
from hook.evaluation.boundary import count_matched, near

SSIM_WINDOW = 11
REGION_MARGIN = 2  # pixels around a region in which edges count: its outline lies on both sides
# Shares of the original's gradients below the weak and the strong edges, and the smallest gradient
# of an edge: that of a step of a hundredth of the range.
EDGE_QUANTILES, EDGE_SIGMA, EDGE_FLOOR = (0.8, 0.9), 1.0, 0.04


@dataclass(frozen=True)
class Reconstruction:
    """Measures of one image; NaN where undefined.

    Attributes:
        pixels: Number of valid pixels.
        squared_error: (C,) mean squared error of each band, as a share of its squared range.
        ssim: (C,) structural similarity of each band, over windows of valid pixels (Gaussian, 11
            pixels, sigma 1.5), in the band's range.
        angle: Mean spectral angle in degrees, over pixels where both spectra are not zero.
        ergas: Relative error over all bands in percent of their means (resolution ratio 1), without
            bands whose mean is zero.
        edges: (4,) decoded edge pixels near a true one, all decoded, true ones near a decoded one,
            all true; the columns of :func:`hook.evaluation.boundary.boundary_scores`.
        region_errors: (R,) mean squared error of all bands inside each region.
        region_edges: (R, 4) the counts of edges in and around each region.
        region_pixels: (R,) valid pixels of each region.
    """

    pixels: int
    squared_error: np.ndarray
    ssim: np.ndarray
    angle: float
    ergas: float
    edges: np.ndarray
    region_errors: np.ndarray
    region_edges: np.ndarray
    region_pixels: np.ndarray

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio over all bands in dB; infinite for a perfect image."""
        return psnr(self.squared_error.mean())


def psnr(squared_error: float | np.ndarray) -> float | np.ndarray:
    """Return the decibels of mean squared errors that are shares of the squared range."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(squared_error)


def band_ranges(
    data_range: float | Sequence[float] | Sequence[Sequence[float]], num_bands: int
) -> Tensor:
    """Return the (C, 2) lowest and highest value of each band.

    Args:
        data_range: The highest value, the lowest being 0; (lowest, highest); or such a pair for
            each band.
        num_bands: C.

    Raises:
        ConfigError: A range is empty, or the number of ranges is not C.
    """
    values = torch.as_tensor(data_range, dtype=torch.float64)
    if values.ndim == 0:
        values = torch.stack([torch.zeros_like(values), values])
    if values.ndim == 1:
        values = values.expand(num_bands, -1)
    if values.shape != (num_bands, 2) or not (values[:, 1] > values[:, 0]).all():
        raise ConfigError(
            "data_range does not fit the images",
            expected=f"the highest value, (lowest, highest), or {num_bands} such pairs",
            found=data_range,
            remedy="correct data_range",
        )
    return values


def measure_reconstruction(
    image: Tensor,
    reconstruction: Tensor,
    data_range: float | Sequence,
    valid: Tensor | None = None,
    edge_tolerance: float = 1,
    regions: Sequence[np.ndarray] = (),
) -> Reconstruction | None:
    """Measure a decoded image.

    Args:
        image: (C, H, W) original.
        reconstruction: (C, H, W) in the same units.
        data_range: See :func:`band_ranges`. It is fixed: PSNR and SSIM do not depend on which
            values an image happens to hold.
        valid: (H, W) bool; None: all pixels are.
        edge_tolerance: Distance in pixels up to which edges match.
        regions: (H, W) bool each, such as small objects, to be measured alone too.

    Returns:
        The measures; None for an image without a valid pixel.

    Raises:
        DataError: The sizes differ, or a value at a valid pixel is not finite.
    """
    if image.shape != reconstruction.shape:
        raise DataError(
            "image and reconstruction differ in size",
            expected=tuple(image.shape),
            found=tuple(reconstruction.shape),
            remedy="compare each image with its own reconstruction",
        )
    known = torch.ones(image.shape[1:], dtype=torch.bool) if valid is None else valid.cpu().bool()
    if not known.any():
        return None
    pair = torch.stack([image, reconstruction]).detach().cpu().double()
    pair = pair.masked_fill(~known, 0)
    if not pair.isfinite().all():
        raise DataError(
            "an image or its reconstruction has values that are not finite",
            expected="finite values at valid pixels",
            remedy="set nodata for missing values, and check whether the training diverged",
        )
    ranges = band_ranges(data_range, len(image))
    low, span = ranges[:, 0], ranges[:, 1] - ranges[:, 0]
    scaled = (pair - low[:, None, None]) / span[:, None, None]
    errors = (scaled[1] - scaled[0]).square()
    inside = [torch.from_numpy(np.asarray(region, bool)) & known for region in regions]
    around = [known, *(torch.from_numpy(near(x.numpy(), REGION_MARGIN)) & known for x in inside)]
    # Valid pixels as an image of one column, as torchmetrics takes them.
    true, decoded = pair[:, None, :, known][..., None]
    angle = torch.tensor(torch.nan)
    if len(image) > 1:
        angles = spectral_angle_mapper(decoded, true, reduction="none")
        angle = angles[angles.isfinite()].mean().rad2deg()
    ergas, lit = torch.tensor(torch.nan), true.mean(dim=(0, 2, 3)) != 0
    if lit.any():
        ergas = error_relative_global_dimensionless_synthesis(decoded[:, lit], true[:, lit], 1)
    edges = _edges(scaled.mean(dim=1).numpy(), known.numpy(), edge_tolerance, around)
    return Reconstruction(
        pixels=int(known.sum()),
        squared_error=errors[:, known].mean(dim=1).numpy(),
        ssim=_ssim(scaled, known).numpy(),
        angle=float(angle),
        ergas=float(ergas),
        edges=edges[0],
        region_errors=np.array([float(errors[:, region].mean()) for region in inside]),
        region_edges=edges[1:],
        region_pixels=np.array([int(region.sum()) for region in inside]),
    )


def _ssim(scaled: Tensor, known: Tensor) -> Tensor:
    """Return the (C,) mean similarity over windows without a missing pixel.

    Windows at the border see the image reflected, as in torchmetrics.
    """
    edge = SSIM_WINDOW // 2
    if min(known.shape) <= edge:
        return torch.full((scaled.shape[1],), torch.nan)
    missing = F.max_pool2d((~known)[None].float(), SSIM_WINDOW, stride=1, padding=edge)[0]
    values = []
    # One band at a time, and not in float64, in which convolutions copy the window of each pixel.
    for true, decoded in scaled.float().transpose(0, 1)[:, :, None, None]:
        _, full = structural_similarity_index_measure(
            decoded, true, data_range=1.0, reduction="none", return_full_image=True
        )
        values.append(full[0, 0, missing == 0].double().mean())
    return torch.stack(values)


def _edges(
    intensity: np.ndarray, known: np.ndarray, tolerance: float, areas: Sequence[Tensor]
) -> np.ndarray:
    """Count the edges of (2, H, W) mean bands in each area, (A, 4).

    Their thresholds are from the gradients of the original, so that both have the same.
    """
    smooth = ndimage.gaussian_filter(intensity[0] * known, EDGE_SIGMA)
    smooth /= np.maximum(ndimage.gaussian_filter(known.astype(float), EDGE_SIGMA), 1e-12)
    gradient = np.hypot(ndimage.sobel(smooth, axis=0), ndimage.sobel(smooth, axis=1))
    # As Canny does: the gradient beside a missing pixel is of that pixel, too.
    inner = ndimage.binary_erosion(known, np.ones((3, 3)), border_value=1)
    kept = gradient[inner if inner.any() else known]
    low, high = np.maximum(np.quantile(kept, EDGE_QUANTILES), EDGE_FLOOR)
    options = dict(sigma=EDGE_SIGMA, low_threshold=low, high_threshold=high, mask=known)
    true, decoded = (canny(values, **options) for values in intensity)
    counts = []
    for area in areas:
        ours, theirs = decoded & area.numpy(), true & area.numpy()
        counts += [
            count_matched(ours, true, tolerance),
            np.count_nonzero(ours),
            count_matched(theirs, decoded, tolerance),
            np.count_nonzero(theirs),
        ]
    return np.reshape(counts, (-1, 4))
