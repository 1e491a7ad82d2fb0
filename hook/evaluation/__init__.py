"""Metrics for scene classification and segmentation."""

from hook.evaluation.accuracy import Accuracy
from hook.evaluation.boundary_metric import BoundaryMetric
from hook.evaluation.homogeneity_metric import HomogeneityMetric
from hook.evaluation.iou_metric import IoUMetric

__all__ = ["Accuracy", "BoundaryMetric", "HomogeneityMetric", "IoUMetric"]
