"""Homogeneity of a model's tokens as a metric."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from prettytable import PrettyTable
from torch import Tensor

from hook.errors import ConfigError
from hook.evaluation.boundary import check_tolerance
from hook.evaluation.homogeneity import (
    MEASURES,
    NO_REGION,
    explained_variation,
    measure_regions,
    stuff_classes,
)
from hook.evaluation.samples import (
    class_names,
    label_to_ignore,
    of_labelled,
    truth_and_prediction,
)
from hook.evaluation.superpixels import token_regions
from hook.registry import METRICS
from hook.tokenizers.assignment import resize_nearest


@METRICS.register_module()
class HomogeneityMetric(BaseMetric):
    """Homogeneity of tokens: measures of each image's token map, averaged over the images.

    The measures are those of :data:`hook.evaluation.homogeneity.MEASURES` for the samples' tokens
    (see :class:`hook.structures.ImageTokens`), or their ``token_map`` (1, h, w) if they have one.
    Objects are the connected components of each class; a class named ``background`` is one object.
    Images for which a measure is undefined are excluded from its mean.

    Use it in a list with ``hook.IoUMetric``; no other option of the config is needed.

    Args:
        tolerance: Maximum distance of matched boundaries, Euclidean, in pixels, inclusive.
        min_region_pixels: Minimum size of a connected part of a token in pixels (see
            :func:`hook.evaluation.superpixels.token_regions`); 0 keeps all. Ignored for a
            ``token_map``.
        ignore_index: Label of ignored pixels; default ``ignore_index`` of the dataset meta, or 255.
        collect_device: As in MMEngine.
        prefix: First part of the metric names.

    Reference:
        Shao et al. (2024), arXiv:2403.18593; each measure cites its own.
    """

    def __init__(
        self,
        tolerance: float = 3,
        min_region_pixels: int = 0,
        ignore_index: int | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_tolerance(tolerance, "hook.HomogeneityMetric: tolerance")
        if min_region_pixels < 0:
            raise ConfigError(
                "hook.HomogeneityMetric: min_region_pixels is below zero",
                expected="a number of pixels",
                found=min_region_pixels,
                remedy="set min_region_pixels to 0 to keep all parts, or to a number of pixels",
            )
        self.tolerance, self.min_region_pixels = tolerance, min_region_pixels
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Measure the token maps of one batch.

        Args:
            data_batch: ``inputs``, B images (C, h, w) in model units, as returned by the dataset.
            data_samples: mmseg's SegDataSample objects as dictionaries, with ``gt_sem_seg``
                (1, H, W), ``pred_sem_seg`` (1, H, W), and ``tokens`` or ``token_map``.

        Raises:
            ConfigError: The samples have no tokens.
            DataError: Mask and prediction differ in size, or a class is out of range.
        """
        classes = class_names(self.dataset_meta, "hook.HomogeneityMetric")
        ignored = label_to_ignore(self.ignore_index, self.dataset_meta)
        images = (data_batch or {}).get("inputs", [None] * len(data_samples))
        for image, sample in zip(images, data_samples, strict=True):
            values = None
            if "gt_sem_seg" in sample:
                truth, _ = truth_and_prediction(sample, len(classes), ignored)
                options = dict(ignore_index=ignored, stuff=stuff_classes(classes))
                values = self._measure(image, sample, truth.numpy(), **options)
            self.results.append(values)

    def _measure(
        self, image: Tensor | None, sample: dict, truth: np.ndarray, **options: Any
    ) -> np.ndarray:
        """Measure one image: explained variation on its grid, all else on the mask's.

        Args:
            image: (C, h, w) in model units.
            sample: With the tokens.
            truth: (H, W) classes.
            **options: ``ignore_index`` and ``stuff`` of ``measure_regions``.
        """
        if "token_map" in sample:
            regions = sample["token_map"]["data"].squeeze(0).cpu().numpy()
        elif "tokens" in sample:
            regions = token_regions(sample["tokens"], self.min_region_pixels)
        else:
            raise ConfigError(
                "hook.HomogeneityMetric got samples without tokens",
                expected="samples of a hook.TokenSegmentor with hook.TokenViT as its backbone, "
                "for images not split into crops",
                found=f"{sample.get('img_path', 'a sample')} with {', '.join(sample)}",
                remedy="set test_cfg.mode='whole', or remove the metric from test_evaluator and "
                "val_evaluator",
            )
        values = measure_regions(
            resize_nearest(regions, truth.shape), truth, tolerance=self.tolerance, **options
        )
        if image is not None:
            pixels = image.detach().cpu().float().numpy().transpose(1, 2, 0)
            on_image = resize_nearest(regions, pixels.shape[:2])
            finite = np.isfinite(pixels).all(-1)
            values["EV"] = explained_variation(pixels, np.where(finite, on_image, NO_REGION))
        return np.array([values[name] for name in MEASURES])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Average over all images.

        Args:
            results: One per image, from :meth:`process`.

        Returns:
            ``TokenASA``, ``TokenUE`` and so on: the names of
            :data:`hook.evaluation.homogeneity.MEASURES`, all starting with ``Token``, in percent,
            the variation of information in bits; empty without masks.

        Raises:
            DataError: Some images have a mask and some have none.
        """
        logger = MMLogger.get_current_instance()
        measured = of_labelled(results, "homogeneity")
        if not measured:
            return {}
        table = PrettyTable(["Measure", "Mean over images", "Description"], align="l")
        metrics: dict[str, float] = {}
        for (name, meaning), values in zip(MEASURES.items(), np.stack(measured).T, strict=True):
            known = values[~np.isnan(values)]
            if not known.size:
                continue
            value = float(known.mean()) * (1 if name == "VI" else 100)
            shown = name if name.startswith("Token") else f"Token{name}"
            metrics[shown] = round(value, 4)
            table.add_row([shown, f"{value:.2f}", meaning])
        title = f"homogeneity of tokens, boundaries within {self.tolerance:g} px"
        print_log(f"{title}:\n{table.get_string()}", logger=logger)
        return metrics
