"""Inputs of the metrics: class names, truth and prediction of an image."""

from collections.abc import Mapping, Sequence

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


def truth_and_prediction(
    sample: dict, num_classes: int, ignore_index: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the true and predicted class maps of a segmented image, checked.

    Args:
        sample: mmseg's SegDataSample as a dictionary, with ``pred_sem_seg`` and ``gt_sem_seg``,
            (1, H, W) each.
        num_classes: K.
        ignore_index: Label of ignored pixels.

    Returns:
        (H, W) int64 on the CPU; both in ``[0, K)`` where the truth is not ``ignore_index``.

    Raises:
        DataError: The mask is missing, its size differs, or a class is out of range.
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
