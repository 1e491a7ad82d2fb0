"""Intersection over union for segmentation, with georeferenced output."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from mmengine.logging import MMLogger, print_log
from mmseg.evaluation import IoUMetric as MMSegIoUMetric
from prettytable import PrettyTable

from hook.errors import ConfigError, DataError
from hook.evaluation.confusion import (
    class_scores,
    confusion_matrix,
    macro_scores,
    save_confusion_matrix,
)
from hook.evaluation.prediction_writer import PredictionWriter
from hook.evaluation.samples import class_names, label_to_ignore, truth_and_prediction
from hook.registry import METRICS


@METRICS.register_module()
class IoUMetric(MMSegIoUMetric):
    """mmseg's IoUMetric with exact counts and georeferenced predictions.

    Unlike in mmseg, counts are integers, exact for any number of pixels; labels outside the range
    are errors instead of being ignored; ``IoU.<class>`` is reported too; predictions of
    georeferenced datasets are GeoTIFFs (see
    :class:`hook.evaluation.prediction_writer.PredictionWriter`). A class that is neither in the
    truth nor predicted has no score and is excluded from the mean; one that is only predicted has
    an IoU, Dice, F-score, precision and recall of 0, as in scikit-learn, but no ``Acc``.

    Args:
        ignore_index: Label of ignored pixels; default ``ignore_index`` of the dataset meta, or 255.
        iou_metrics: Any of ``'mIoU'``, ``'mDice'``, ``'mFscore'``.
        nan_to_num: Value of undefined scores; None leaves them out.
        beta: Weight of recall in the F-score.
        output_dir: Folder for the predicted masks and ``confusion_matrix.json``.
        format_only: Write predictions only (for images without labels).
        **kwargs: ``collect_device`` and ``prefix``, as in mmseg.
    """

    def __init__(
        self,
        ignore_index: int | None = None,
        iou_metrics: Sequence[str] = ("mIoU",),
        nan_to_num: int | None = None,
        beta: int = 1,
        output_dir: str | None = None,
        format_only: bool = False,
        **kwargs,
    ) -> None:
        names = [iou_metrics] if isinstance(iou_metrics, str) else list(iou_metrics)
        unknown = set(names) - {"mIoU", "mDice", "mFscore"}
        if unknown or not names:
            raise ConfigError(
                "hook.IoUMetric: iou_metrics",
                expected="one or more of mIoU, mDice, mFscore",
                found=", ".join(sorted(unknown)) or "none",
                remedy="choose iou_metrics from these",
            )
        super().__init__(
            ignore_index=ignore_index,  # None until the dataset is known
            iou_metrics=names,
            nan_to_num=nan_to_num,
            beta=beta,
            output_dir=None,  # mmseg would write plain PNGs
            format_only=format_only,
            **kwargs,
        )
        self.output_dir = output_dir
        self._writer: PredictionWriter | None = None

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count pixels of one batch, and keep its predictions with ``output_dir``.

        Args:
            data_batch: Not used.
            data_samples: mmseg's SegDataSample objects as dictionaries, with ``pred_sem_seg``,
                ``gt_sem_seg`` and optionally ``valid_mask``, (1, H, W) each.
        """
        classes = class_names(self.dataset_meta, "hook.IoUMetric")
        ignored = label_to_ignore(self.ignore_index, self.dataset_meta)
        for sample in data_samples:
            counts = None
            if not self.format_only:
                pair = truth_and_prediction(sample, len(classes), ignored)
                counts = confusion_matrix(*pair, len(classes), ignored)
            part = None
            if self.output_dir is not None:
                prediction = sample["pred_sem_seg"]["data"].squeeze(0).cpu()
                part = self._get_writer().keep(sample, prediction.numpy())
            self.results.append((counts, part))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics of all images.

        Args:
            results: One per image, from :meth:`process`.

        Returns:
            ``aAcc``, ``mIoU``, ``mAcc`` and so on as in mmseg, and ``IoU.<class>`` (or Dice,
            Fscore), in percent; empty with ``format_only``.

        Raises:
            DataError: No pixel has a label.
        """
        logger = MMLogger.get_current_instance()
        classes = class_names(self.dataset_meta, "hook.IoUMetric")
        if self.output_dir is not None:
            written = self._get_writer().finish([part for _, part in results])
            print_log(f"{written} predictions are in {self.output_dir}", logger=logger)
        if self.format_only:
            return {}
        matrix = sum(counts for counts, _ in results)
        if self.output_dir is not None:
            save_confusion_matrix(self.output_dir, classes, matrix)
        if matrix.sum() == 0:
            raise DataError(
                "the evaluation found no labelled pixel",
                expected=f"labels from 0 to {len(classes) - 1}",
                found="only the ignore index",
                remedy="check the masks and reduce_zero_label",
            )
        scores = class_scores(matrix)
        values: dict[str, np.ndarray] = {}
        for name in self.metrics:
            if name == "mFscore":
                hits, weight = np.diag(matrix), self.beta**2
                total = weight * matrix.sum(axis=1) + matrix.sum(axis=0)
                with np.errstate(invalid="ignore"):
                    values["Fscore"] = (1 + weight) * hits / total
                macro = macro_scores(scores)
                values |= {"Precision": macro["precision"], "Recall": macro["recall"]}
            else:
                values |= {name[1:]: scores["iou" if name == "mIoU" else "f1"]}
                values |= {"Acc": scores["recall"]}
        if self.nan_to_num is not None:
            values = {name: np.nan_to_num(v, nan=self.nan_to_num) for name, v in values.items()}
        metrics: dict[str, float] = OrderedDict()
        overall = round(float(np.trace(matrix) / matrix.sum()) * 100, 4)
        table = PrettyTable()
        table.add_column("Class", list(classes))
        per_class: dict[str, float] = OrderedDict()
        for name, of_class in values.items():
            metrics[f"m{name}"] = round(float(np.nanmean(of_class)) * 100, 4)
            table.add_column(name, [f"{value * 100:.2f}" for value in of_class])
            if name in ("IoU", "Dice", "Fscore"):
                for label, value in zip(classes, of_class, strict=True):
                    if not np.isnan(value):
                        per_class[f"{name}.{label}"] = round(float(value) * 100, 4)
        print_log(f"per class results:\n{table.get_string()}", logger=logger)
        # save_best='auto' uses the first: a mean over classes, not the overall accuracy.
        metrics["aAcc"] = overall
        metrics.update(per_class)
        return metrics

    def _get_writer(self) -> PredictionWriter:
        if self._writer is None:
            self._writer = PredictionWriter(self.output_dir, self.dataset_meta)
        return self._writer
