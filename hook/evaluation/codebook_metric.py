"""Use of the codes of a codebook as a metric."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from prettytable import PrettyTable
from torch import Tensor

from hook.errors import DataError
from hook.evaluation.samples import check_fields
from hook.registry import METRICS


@METRICS.register_module()
class CodebookMetric(BaseMetric):
    """Share of codes that occur, and their perplexity, per depth or factor.

    Both depend on how many positions were counted: a table of 16,384 codes cannot show its use on
    1,000 positions. Positions whose pixels are all invalid are not counted.

    Args:
        collect_device: As in MMEngine.
        prefix: First part of the metric names.
    """

    default_prefix = "codes"

    def __init__(self, collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the codes of one batch.

        Args:
            data_batch: Not used.
            data_samples: :class:`hook.structures.CodecDataSample` objects as dictionaries, with
                ``codes``, ``codebook_sizes``, ``indices_kind`` and optionally ``valid_mask``,
                ``padded_shape`` and ``bits``.

        Raises:
            ConfigError: The model has no codes.
        """
        for sample in data_samples:
            check_fields(sample, ("codes",), "hook.CodebookMetric")
            codes = sample["codes"].cpu()
            codes = codes[..., None] if codes.ndim == 2 else codes
            valid = None  # slots stand at no position, and codes of series are of valid patches
            if "token_ids" not in sample and "places" not in sample:
                of = sample.get("valid_mask"), codes.shape[:2], sample.get("padded_shape")
                valid = valid_positions(*of)
            kept = codes.flatten(0, 1) if valid is None else codes[valid]
            sizes = tuple(sample["codebook_sizes"])
            if kept.numel() and not (0 <= kept.min() and (kept < torch.tensor(sizes)).all()):
                raise DataError(
                    "a code is outside its codebook",
                    expected=f"below {sizes}",
                    remedy="evaluate codes with the quantizer that made them",
                )
            bits = sample.get("bits")
            if bits is not None:
                bits = bits.cpu().reshape(codes.shape).sum(dim=-1)
                bits = (bits if valid is None else bits[valid]).double().sum().item()
            self.results.append((kept.numpy(), sizes, sample["indices_kind"], bits))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Count over all images.

        Args:
            results: One per image, from :meth:`process`.

        Returns:
            ``use`` in percent and ``perplexity``, means over the columns of the codes; ``bits``,
            the entropy of the codes of a position in bits if its columns and positions were
            independent; of a generator ``model_bits``, the mean of minus the binary logarithm of
            the probability that it gives to the codes of a position; ``positions``; and with
            several columns ``use.<column>`` and ``perplexity.<column>``.
        """
        codes = np.concatenate([kept for kept, *_ in results])
        _, sizes, kind, bits = results[0]
        if not len(codes):
            raise DataError(
                "no image has a valid position",
                found=f"{len(results)} images",
                remedy="check the validity masks and nodata values of the images",
            )
        word = {"residual": "depth", "product": "factor"}.get(kind, "code")
        use, entropy = [], []
        table = PrettyTable([word.capitalize(), "Of", "Used", "Use", "Perplexity"])
        for column, size in enumerate(sizes):
            counts = np.bincount(codes[:, column], minlength=size)
            p = counts[counts > 0] / len(codes)
            use.append(100 * len(p) / size)
            entropy.append(float(-(p * np.log(p)).sum()))
            shown = f"{use[-1]:.2f} %", f"{np.exp(entropy[-1]):.1f}"
            table.add_row([column + 1, size, len(p), *shown])
        print_log(
            f"codes at {len(codes)} positions of {len(results)} images:\n{table}",
            logger=MMLogger.get_current_instance(),
        )
        perplexity = np.exp(entropy)
        metrics = {
            "use": np.mean(use),
            "perplexity": perplexity.mean(),
            "bits": sum(entropy) / np.log(2),
            "positions": len(codes),
        }
        if bits is not None:
            metrics["model_bits"] = sum(one for *_, one in results) / len(codes)
        for column in range(len(sizes) if len(sizes) > 1 else 0):
            metrics[f"use.{word}{column + 1}"] = use[column]
            metrics[f"perplexity.{word}{column + 1}"] = perplexity[column]
        return {name: round(float(value), 4) for name, value in metrics.items()}


def valid_positions(
    valid: Tensor | None, grid: tuple[int, int], padded_shape: tuple[int, int] | None = None
) -> Tensor | None:
    """Return which positions of a grid have a valid pixel.

    Args:
        valid: (H, W) bool; None: all pixels are.
        grid: Height and width (h, w).
        padded_shape: Size of the image, at its lower right, that the grid covers; None: (H, W).

    Returns:
        (h, w) bool; None: all.
    """
    if valid is None or valid.ndim > 2 or valid.all():  # codes of series are of valid patches
        return None
    valid = valid.cpu().float()
    if padded_shape is not None:
        down, right = (new - old for new, old in zip(padded_shape, valid.shape, strict=True))
        valid = F.pad(valid, (0, right, 0, down))
    return F.adaptive_max_pool2d(valid[None], tuple(grid))[0] > 0
