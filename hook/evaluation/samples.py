"""Inputs of the metrics: class names, truth and prediction of an image."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmengine.logging import print_log

from hook.errors import ConfigError, DataError
from hook.evaluation.confusion import check_labels


def class_names(dataset_meta: Mapping | None, metric: str) -> Sequence[str]:
    """Return the class names of a metric's ``dataset_meta``.

    Raises:
        ConfigError: There are none; the message names ``metric``.
    """
    classes = (dataset_meta or {}).get("classes")
    if not classes:
        raise ConfigError(
            f"{metric}: the dataset has no class names",
            expected="metainfo['classes']",
            found=dataset_meta,
            remedy="set metainfo=dict(classes=(...)) in the dataset's config",
        )
    return classes


def label_to_ignore(ignore_index: int | None, dataset_meta: Mapping | None) -> int:
    """Return the label of ignored pixels: of the metric, else of the dataset, else 255."""
    if ignore_index is None:
        ignore_index = (dataset_meta or {}).get("ignore_index", 255)
    return int(ignore_index)


def check_fields(sample: dict, names: Sequence[str], metric: str) -> None:
    """Raise a ConfigError, which names ``metric``, if a sample lacks fields."""
    if missing := [name for name in names if name not in sample]:
        raise ConfigError(
            f"{metric} got samples without {', '.join(missing)}",
            expected=f"samples with {', '.join(names)}, which the model of this config predicts",
            found=", ".join(sample),
            remedy="remove the metric from the evaluators of this config",
        )


def without_class(sample: dict) -> torch.Tensor | None:
    """Mark the pixels whose scores choose no class, because the largest one is not finite.

    Args:
        sample: mmseg's SegDataSample as a dictionary, with optional ``seg_logits`` (K, H, W).

    Returns:
        (H, W) bool on the CPU; None without scores.
    """
    if "seg_logits" not in sample:
        return None
    logits = sample["seg_logits"]["data"]
    largest = logits.amax(dim=0)  # NaN if one of them is
    return (largest.isnan() if len(logits) == 1 else ~largest.isfinite()).cpu()


def no_prediction(where: str) -> DataError:
    """Return the error for scores that are not finite."""
    return DataError(
        f"{where}: the model predicts no class",
        expected="finite scores",
        found="NaN or infinity",
        remedy="check the values of the image (set nodata for missing ones) and its scale, and "
        "whether the training diverged",
    )


def warn_no_prediction(where: str, unknown: np.ndarray | None = None) -> None:
    """Warn that the scores of an image, or of its pixels ``unknown`` (H, W), are not finite."""
    part = "" if unknown is None else f" for {unknown.mean():.1%} of its pixels"
    warnings.warn(
        f"{where}: the model predicts no class{part}: scores of NaN or infinity, from values of "
        "the image far outside those of training",
        stacklevel=3,
    )


def truth_and_prediction(
    sample: dict, num_classes: int, ignore_index: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the true and predicted class maps of a segmented image, checked.

    Args:
        sample: mmseg's SegDataSample as a dictionary, with ``pred_sem_seg`` and ``gt_sem_seg``,
            (1, H, W) each, and optional ``seg_logits`` (K, H, W).
        num_classes: K.
        ignore_index: Label of ignored pixels.

    Returns:
        (H, W) int64 on the CPU; both in ``[0, K)`` where the truth is not ``ignore_index``.

    Raises:
        DataError: The mask is missing, its size differs, a class is out of range, or the scores
            of a pixel are not finite.
    """
    image = sample.get("img_path", "an image")
    where = sample.get("seg_map_path") or image
    if "gt_sem_seg" not in sample:
        raise DataError(
            f"{image} has no mask",
            expected="a label for every image that is evaluated",
            found="none",
            remedy="add the masks, or set format_only=True of hook.IoUMetric in test_evaluator "
            "to predict only",
        )
    truth = sample["gt_sem_seg"]["data"].squeeze(0).cpu().long()
    prediction = sample["pred_sem_seg"]["data"].squeeze(0).cpu().long()
    if truth.shape != prediction.shape:
        raise DataError(
            f"{where}: mask and prediction have different sizes",
            expected=f"{tuple(prediction.shape)}, the size of the image",
            found=tuple(truth.shape),
            remedy="use masks on the grid of their images",
        )
    counted = truth != ignore_index
    unknown = without_class(sample)
    if unknown is not None and (unknown & counted).any():
        raise no_prediction(image)
    for name, labels in (("label", truth), ("prediction", prediction)):
        check_labels(
            labels[counted].numpy(), num_classes, None, f"{where}: {name} outside the range"
        )
    return truth, prediction


def of_labelled(results: Sequence, score: str) -> list:
    """Return the results of images with a mask; None in ``results`` marks an image without one.

    Raises:
        DataError: Some images have a mask and some have none.
    """
    labelled = [result for result in results if result is not None]
    if not labelled:
        print_log(f"No image has a mask: no {score} is computed.", "current")
    elif len(labelled) < len(results):
        raise DataError(
            f"{len(results) - len(labelled)} of {len(results)} images have no mask",
            expected="a label for every image that is evaluated, or for none",
            remedy="add the masks, or leave the images out of test_dataloader",
        )
    return labelled
