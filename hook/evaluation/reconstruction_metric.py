"""Quality of decoded images as a metric."""

from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from prettytable import PrettyTable

from hook.errors import DataError
from hook.evaluation.boundary import boundary_scores, check_tolerance
from hook.evaluation.reconstruction import Reconstruction, measure_reconstruction, psnr
from hook.evaluation.samples import check_fields
from hook.registry import METRICS


@METRICS.register_module()
class ReconstructionMetric(BaseMetric):
    """PSNR, SSIM, spectral angle, ERGAS and edges of decoded images, on their valid pixels.

    Measures are computed per image (:func:`hook.evaluation.reconstruction.measure_reconstruction`)
    and averaged over the images for which they are defined. An image that is decoded without an
    error has an infinite PSNR, and then the mean is infinite, too: ``PSNR_pooled``, of the mean
    squared error over all valid pixels, is not. Edge counts are added up over the images. Images
    without a valid pixel are left out. The dates of a time series are images.

    Args:
        data_range: Highest value of the images (255 for 8-bit images), (lowest, highest), or such a
            pair for each band: the fixed range of PSNR and SSIM.
        edge_tolerance: Distance in pixels up to which edges match.
        collect_device: As in MMEngine.
        prefix: First part of the metric names.
    """

    def __init__(
        self,
        data_range: float | Sequence,
        edge_tolerance: float = 1,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_tolerance(edge_tolerance, "hook.ReconstructionMetric: edge_tolerance")
        self.data_range = data_range
        self.edge_tolerance = edge_tolerance

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Measure the images of one batch.

        Args:
            data_batch: Not used.
            data_samples: :class:`hook.structures.CodecDataSample` objects as dictionaries, with
                ``image`` and ``reconstruction`` and optionally ``valid_mask``.

        Raises:
            ConfigError: The model reconstructs no images.
        """
        for sample in data_samples:
            check_fields(sample, ("image", "reconstruction"), "hook.ReconstructionMetric")
            parts = [sample.get(key) for key in ("image", "reconstruction", "valid_mask")]
            parts = parts if parts[0].ndim > 3 else [None if x is None else [x] for x in parts]
            parts = [[None] * len(parts[0]) if part is None else part for part in parts]
            measured = [
                measure_reconstruction(image, decoded, self.data_range, valid, self.edge_tolerance)
                for image, decoded, valid in zip(*parts, strict=True)
            ]
            self.results.append(measured)

    def compute_metrics(self, results: list[list[Reconstruction | None]]) -> dict[str, float]:
        """Average over all images.

        Args:
            results: Those of each sample, from :meth:`process`.

        Returns:
            ``PSNR`` and ``PSNR_pooled`` in dB, ``SSIM``, ``SAM`` in degrees, ``ERGAS`` in percent,
            ``EdgeF1`` in percent; ``PSNR.<band>`` and ``SSIM.<band>`` for each of several bands.

        Raises:
            DataError: No image has a valid pixel.
        """
        images = [one for result in results for one in result]
        measured = [one for one in images if one is not None]
        if not measured:
            raise DataError(
                "no image has a valid pixel",
                found=f"{len(images)} images without",
                remedy="check the validity masks and nodata values of the images",
            )
        errors = np.stack([one.squared_error for one in measured])
        pixels = np.array([one.pixels for one in measured])
        ssim = np.stack([one.ssim for one in measured])
        edges = boundary_scores(sum(one.edges for one in measured)[None])
        pooled = (errors.mean(axis=1) * pixels).sum() / pixels.sum()
        metrics = {
            "PSNR": psnr(errors.mean(axis=1)).mean(),
            "PSNR_pooled": psnr(pooled),
            "SSIM": defined_mean(ssim),
            "SAM": defined_mean([one.angle for one in measured]),
            "ERGAS": defined_mean([one.ergas for one in measured]),
            "EdgeF1": 100 * edges["f1"][0],
        }
        names = (self.dataset_meta or {}).get("bands") or range(1, errors.shape[1] + 1)
        table = PrettyTable(["Band", "PSNR", "SSIM"])
        for band, name in enumerate(names if errors.shape[1] > 1 else ()):
            values = psnr(errors[:, band]).mean(), defined_mean(ssim[:, band])
            metrics |= {f"PSNR.{name}": values[0], f"SSIM.{name}": values[1]}
            table.add_row([name, *(f"{value:.3f}" for value in values)])
        logger = MMLogger.get_current_instance()
        print_log(f"reconstruction of {len(measured)} images:\n{table}", logger=logger)
        return {name: round(float(v), 4) for name, v in metrics.items() if not np.isnan(v)}


def defined_mean(values: Sequence[float] | np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN if all are."""
    values = np.asarray(values, float)
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
