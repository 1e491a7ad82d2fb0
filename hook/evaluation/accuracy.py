"""Accuracy of scene classification: top-k, per class and mean; predictions as CSV."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from prettytable import PrettyTable

from hook.errors import ConfigError, DataError
from hook.evaluation.confusion import class_scores, confusion_matrix, save_confusion_matrix
from hook.evaluation.samples import class_names, no_prediction
from hook.geo.staging import atomic_write
from hook.registry import METRICS


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Top-k accuracy over all images and accuracy per class.

    Reports ``accuracy/top1`` (and each further k) and ``accuracy/mean_class`` (mean over the
    classes that occur), and logs a table of images, accuracy, precision and F1 per class, all in
    percent.

    Args:
        topk: Values of k.
        output_dir: Folder for ``predictions.csv`` (file, predicted class, score of each class)
            and ``confusion_matrix.json``; None writes no files.
        collect_device: As in MMEngine.
        prefix: First part of the metric names.
    """

    default_prefix = "accuracy"

    def __init__(
        self,
        topk: int | Sequence[int] = (1,),
        output_dir: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or min(self.topk) < 1:
            raise ConfigError(
                "hook.Accuracy: topk",
                expected="integers from 1",
                found=self.topk,
                remedy="set topk=1 or topk=(1, 5)",
            )
        self.output_dir = output_dir

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep truth and scores of each image.

        Args:
            data_batch: Not used.
            data_samples: :class:`hook.structures.ClsDataSample` objects as dictionaries, with
                ``pred_score`` (K,) and optionally ``gt_label``.
        """
        num_classes = len(class_names(self.dataset_meta, "hook.Accuracy"))
        for sample in data_samples:
            score = torch.as_tensor(sample["pred_score"]).detach().float().cpu()
            truth = sample.get("gt_label")
            # An image without a valid pixel has no class to be found.
            truth = None if truth is None or sample.get("blank", False) else int(truth)
            where = sample.get("img_path", "an image")
            if score.numel() != num_classes:
                raise ConfigError(
                    f"the model's head returns {score.numel()} scores",
                    expected=f"{num_classes}, the number of classes of the dataset",
                    found=score.numel(),
                    remedy="set num_classes of the head to the number of classes",
                )
            if truth is not None and not 0 <= truth < num_classes:
                raise DataError(
                    f"{where}: label outside the range",
                    expected=f"0 to {num_classes - 1}",
                    found=truth,
                    remedy="check the dataset's classes against its labels",
                )
            if not (sample.get("blank", False) or score.isfinite().all()):
                raise no_prediction(str(where))
            self.results.append((str(where), truth, score.numpy()))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics of all images.

        Args:
            results: One per image, from :meth:`process`.

        Returns:
            Metrics in percent by name; empty without labels.
        """
        classes = class_names(self.dataset_meta, "hook.Accuracy")
        if self.output_dir is not None:
            write_predictions(Path(self.output_dir) / "predictions.csv", classes, results)
        blank = [name for name, truth, score in results if truth is None and np.isnan(score).all()]
        if blank:
            more = f" ({len(blank)} of {len(results)} images)" if len(blank) > 1 else ""
            text = f"{blank[0]}: no valid pixel, and so not counted{more}"
            print_log(text, "current", logging.WARNING)
        labelled = [(truth, score) for _, truth, score in results if truth is not None]
        if not labelled:
            print_log("No image has a label: no accuracy is computed.", "current")
            return {}
        truth = np.array([t for t, _ in labelled])
        scores = np.stack([s for _, s in labelled])
        # A stable sort ranks the lower class first among equal scores, as argmax does.
        ranking = np.argsort(-scores, axis=1, kind="stable")
        metrics = {}
        for k in self.topk:
            hits = (ranking[:, : min(k, len(classes))] == truth[:, None]).any(axis=1)
            metrics[f"top{k}"] = round(float(hits.mean()) * 100, 4)
        matrix = confusion_matrix(truth, ranking[:, 0], len(classes), None)
        if self.output_dir is not None:
            save_confusion_matrix(self.output_dir, classes, matrix)
        scores = class_scores(matrix)
        metrics["mean_class"] = round(float(np.nanmean(scores["recall"])) * 100, 4)
        table = PrettyTable()
        table.add_column("Class", list(classes))
        table.add_column("Images", matrix.sum(axis=1).tolist())
        for name, key in (("Accuracy", "recall"), ("Precision", "precision"), ("F1", "f1")):
            table.add_column(name, [f"{value * 100:.2f}" for value in scores[key]])
        logger = MMLogger.get_current_instance()
        print_log(f"per class results:\n{table.get_string()}", logger=logger)
        return metrics


def write_predictions(
    path: Path, classes: Sequence[str], results: Sequence[tuple], overwrite: bool = False
) -> None:
    """Write classifications as CSV, atomically: file, predicted class, true class if known, scores.

    The class of scores that are not finite is empty.

    Args:
        path: CSV file.
        classes: Class names in the order of the scores.
        results: (file, index of the true class or None, (K,) scores) per image.
        overwrite: Replace any file of this name. One that HOOK did not write is otherwise kept,
            with a warning.
    """

    def ours(existing: Path) -> bool:
        return overwrite or existing.read_bytes().startswith(b"file,class,")

    with atomic_write(path, ours=ours) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        labelled = any(truth is not None for _, truth, _ in results)
        columns = ["file", "class", *(["truth"] if labelled else [])]
        writer.writerow([*columns, *(f"score_{name}" for name in classes)])
        for name, truth, score in results:
            answers = [classes[int(np.argmax(score))] if np.isfinite(score).all() else ""]
            if labelled:
                answers.append("" if truth is None else classes[truth])
            writer.writerow([name, *answers, *(f"{value:.6f}" for value in score)])
