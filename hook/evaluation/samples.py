"""What every metric reads first: the class names, and truth and prediction of an image."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.logging import print_log

from hook.errors import ConfigError, DataError
from hook.evaluation.confusion import check_labels


def class_names(dataset_meta: Mapping | None, metric: str) -> Sequence[str]:
    """Return the data set's class names.

    Args:
        dataset_meta: What MMEngine hands a metric.
        metric: Name of the metric, for the message.

    Raises:
        ConfigError: The data set names none.
    """
    classes = (dataset_meta or {}).get("classes")
    if not classes:
        raise ConfigError(
            f"{metric}: the dataset names no classes",
            expected="metainfo['classes']",
            found=dataset_meta,
            remedy="set metainfo=dict(classes=(...)) in the dataset's config",
        )
    return classes


def truth_and_prediction(
    sample: dict, num_classes: int, ignore_index: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the class maps of a segmented image, checked.

    Args:
        sample: mmseg's SegDataSample as a dictionary, with ``pred_sem_seg`` and ``gt_sem_seg``,
            (1, H, W) each.
        num_classes: K.
        ignore_index: Label of pixels that do not count.

    Returns:
        True and predicted class of each pixel, (H, W) int64 on the CPU; where the truth is not
        ``ignore_index``, both are in ``[0, K)``.

    Raises:
        DataError: The image has no mask, its mask has another size, or a class is out of range.
    """
    image = sample.get("img_path", "an image")
    where = sample.get("seg_map_path") or image
    if "gt_sem_seg" not in sample:
        raise DataError(
            f"{image} has no mask",
            expected="a label for every image that is evaluated",
            found="none",
            remedy="give the masks, or set format_only=True of hook.IoUMetric in test_evaluator "
            "to predict only",
        )
    truth = sample["gt_sem_seg"]["data"].squeeze(0).cpu().long()
    prediction = sample["pred_sem_seg"]["data"].squeeze(0).cpu().long()
    if truth.shape != prediction.shape:
        raise DataError(
            f"{where}: mask and prediction have different sizes",
            expected=f"{tuple(prediction.shape)}, the size of the image",
            found=tuple(truth.shape),
            remedy="give masks on the grid of their images",
        )
    counted = truth != ignore_index
    for name, labels in (("label", truth), ("prediction", prediction)):
        check_labels(
            labels[counted].numpy(), num_classes, None, f"{where}: {name} outside the range"
        )
    return truth, prediction


def of_labelled(results: Sequence, score: str) -> list:
    """Return the results of images with a mask, which all must have or none.

    Args:
        results: One for each image, None for one without a mask.
        score: What is computed, for the log.

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
            remedy="give the masks, or leave the images out of test_dataloader",
        )
    return labelled
