"""Metrics for scene classification and segmentation."""

from hook.evaluation.accuracy import Accuracy
from hook.evaluation.iou_metric import IoUMetric

__all__ = ["Accuracy", "IoUMetric"]
