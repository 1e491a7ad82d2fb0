"""Precision, recall and F1 of the boundaries of a segmentation."""

from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from prettytable import PrettyTable

from hook.evaluation.boundary import boundary_counts, boundary_scores, check_tolerance
from hook.evaluation.confusion import macro_scores
from hook.evaluation.samples import (
    class_names,
    label_to_ignore,
    of_labelled,
    truth_and_prediction,
)
from hook.registry import METRICS


@METRICS.register_module()
class BoundaryMetric(BaseMetric):
    """Precision, recall and F1 of the boundaries of each class, within a tolerance.

    The boundary of a class is its pixels with a 4-neighbour of a different class, see
    :func:`hook.evaluation.boundary.label_boundary`; the border of the image is not a boundary.
    Precision is the share of predicted boundary pixels within ``tolerance`` of a true one of the
    same class, recall the share of true ones within ``tolerance`` of a predicted one, F1 their
    harmonic mean.

    Scores are computed per class from the counts summed over all images, then averaged over the
    classes. (Csurka et al. average scores of images, in which ten boundary pixels weigh as much as
    ten thousand, and use distances below the tolerance, exclusive.) A class without a boundary in
    truth and prediction has no score and is excluded from the means; with a boundary in one of them
    only, its scores are 0 in the means.

    Use it in a list with ``hook.IoUMetric``. ``save_best="auto"`` uses the first score of the first
    metric; to select by this one, set ``save_best="mBF1", rule="greater"``.

    Args:
        tolerance: Maximum distance of a match, Euclidean, in pixels, inclusive.
        ignore_index: Label of ignored pixels; default ``ignore_index`` of the dataset meta, or 255.
        collect_device: As in MMEngine.
        prefix: First part of the metric names.

    Reference:
        Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic
        segmentation?", BMVC 2013, after Martin, Fowlkes and Malik, IEEE TPAMI 26(5), 2004.
    """

    def __init__(
        self,
        tolerance: float = 3,
        ignore_index: int | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_tolerance(tolerance, "hook.BoundaryMetric: tolerance")
        self.tolerance = tolerance
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the boundary pixels of one batch.

        Args:
            data_batch: Not used.
            data_samples: mmseg's SegDataSample objects as dictionaries, with ``pred_sem_seg``
                (1, H, W) and optionally ``gt_sem_seg`` (1, H, W).
        """
        num_classes = len(class_names(self.dataset_meta, "hook.BoundaryMetric"))
        ignored = label_to_ignore(self.ignore_index, self.dataset_meta)
        for sample in data_samples:
            counts = None
            if "gt_sem_seg" in sample:
                pair = truth_and_prediction(sample, num_classes, ignored)
                truth, prediction = (labels.numpy() for labels in pair)
                counts = boundary_counts(truth, prediction, num_classes, self.tolerance, ignored)
            self.results.append(counts)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics of all images.

        Args:
            results: One per image, from :meth:`process`.

        Returns:
            ``mBF1``, ``mBPrecision``, ``mBRecall`` and ``BF1.<class>`` in percent; empty without
            masks or boundaries.

        Raises:
            DataError: Some images have a mask and some have none.
        """
        logger = MMLogger.get_current_instance()
        classes = class_names(self.dataset_meta, "hook.BoundaryMetric")
        measured = of_labelled(results, "boundary score")
        if not measured:
            return {}
        counts = sum(measured)
        if not counts.any():
            print_log(
                "Truth and prediction have no boundary: no boundary score is computed.",
                logger=logger,
            )
            return {}
        scores = boundary_scores(counts)
        means = macro_scores(scores)
        keys = {"BF1": "f1", "BPrecision": "precision", "BRecall": "recall"}
        table = PrettyTable()
        table.add_column("Class", list(classes))
        metrics: dict[str, float] = {}
        for name, key in keys.items():
            table.add_column(name, [f"{value * 100:.2f}" for value in scores[key]])
            if not np.isnan(scores[key]).all():
                metrics[f"m{name}"] = round(float(np.nanmean(means[key])) * 100, 4)
        for label, value in zip(classes, scores["f1"], strict=True):
            if not np.isnan(value):
                metrics[f"BF1.{label}"] = round(float(value) * 100, 4)
        title = f"boundaries of each class, within {self.tolerance:g} px"
        print_log(f"{title}:\n{table.get_string()}", logger=logger)
        return metrics
