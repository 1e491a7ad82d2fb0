r"""Compare two models on the same test images with a paired bootstrap over the images.

``--first`` and ``--second`` each take outputs of ``tools/test.py --out``, one per seed: for a
classification ``predictions.csv`` files with a ``truth`` column or their folders, for a
segmentation folders of predicted masks, with the reference masks in ``--truth``.

    python tools/analysis_tools/paired_bootstrap.py \
        --first hook_seed0 hook_seed1 hook_seed2 --second patch_seed0 patch_seed1 patch_seed2
"""

import argparse
import csv
import math
from pathlib import Path

import numpy as np

from hook.datasets.files import by_name
from hook.errors import DataError, reports_errors
from hook.evaluation.bootstrap import accuracy, class_iou, mean_iou, paired_bootstrap
from hook.evaluation.confusion import check_same_size, confusion_matrix
from hook.geo.raster import open_raster
from hook.geo.styles import map_dtype, read_category_names

RASTERS = (".tif", ".tiff", ".png")


def read_classification(path: Path) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """Return the class names, and truth and prediction by file."""
    path = path / "predictions.csv" if path.is_dir() else path
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{path} cannot be read", found=error.strerror) from None
    if not rows or not {"file", "class", "truth"} <= rows[0].keys():
        raise DataError(
            f"{path} has no predictions with ground truth",
            expected="columns file, class, truth, score_<class>...",
            found=list(rows[0]) if rows else "no row",
            remedy="write it with tools/test.py --out on a labelled dataset",
        )
    classes = [key.removeprefix("score_") for key in rows[0] if key.startswith("score_")]
    for row in rows:
        wrong = [key for key in ("truth", "class") if row[key] not in classes]
        if wrong or not all(_is_finite(row[f"score_{name}"]) for name in classes):
            raise DataError(
                f"{path}: {row['file']} has no " + (wrong[0] if wrong else "prediction"),
                expected=f"one of {', '.join(classes)}, and finite scores",
                found=row[wrong[0]] or "nothing" if wrong else "scores that are no numbers",
                remedy="write the file with tools/test.py --out on a labelled dataset",
            )
    answers = {row["file"]: (row["truth"], row["class"]) for row in rows}
    if len(answers) < len(rows):
        files = [row["file"] for row in rows]
        raise DataError(
            f"{path} has two predictions of a file",
            expected="a row per file",
            found=next(file for file in files if files.count(file) > 1),
            remedy="remove one of the rows",
        )
    return classes, answers


def _is_finite(text: str | None) -> bool:
    try:
        return math.isfinite(float(text))
    except (TypeError, ValueError):
        return False


def classification_matrices(paths: list[Path]) -> tuple[list[str], list[str], np.ndarray]:
    """Return the classes, the files, and one-hot (S, I, K, K) matrices."""
    classes, files, matrices = [], [], []
    for path in paths:
        names, answers = read_classification(path)
        if classes and (names != classes or sorted(answers) != files):
            raise DataError(
                f"{path} and {paths[0]} list different files or classes",
                remedy="compare runs on the same test images",
            )
        classes, files = names, sorted(answers)
        index = {name: i for i, name in enumerate(classes)}
        seed = np.zeros((len(files), len(classes), len(classes)), dtype=np.int64)
        for i, file in enumerate(files):
            truth, predicted = answers[file]
            seed[i, index[truth], index[predicted]] = 1
        matrices.append(seed)
    return classes, files, np.stack(matrices)


def read_mask(path: Path) -> tuple[np.ndarray, float | None]:
    """Read the first band of a mask and its nodata value, in PNG files that of tools/test.py."""
    with open_raster(path) as source:
        return source.read(1), map_dtype(255)[1] if source.driver == "PNG" else source.nodata


def segmentation_matrices(
    folders: list[Path], truth: Path, num_classes: int, ignore_index: int
) -> tuple[list[str], np.ndarray]:
    """Return the files and (S, I, K, K) matrices of pixel counts."""
    references = [(p.stem, p) for p in sorted(truth.rglob("*")) if p.suffix.lower() in RASTERS]
    files: list[str] = []
    matrices = []
    for folder in folders:
        rasters = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in RASTERS]
        predicted = by_name(((p.stem, p) for p in rasters), folder)
        masks = by_name((pair for pair in references if pair[0] in predicted), truth)
        if not predicted or set(predicted) - set(masks) or (files and sorted(predicted) != files):
            raise DataError(
                f"the masks in {folder} do not match those of {truth} or {folders[0]}",
                expected=f"the file names of {truth}",
                found=sorted(set(predicted) - set(masks))[:3] or f"{len(predicted)} masks",
            )
        files = sorted(predicted)
        seed = np.zeros((len(files), num_classes, num_classes), dtype=np.int64)
        for i, name in enumerate(files):
            label = read_mask(masks[name])[0].astype(np.int64)  # holds any --ignore-index
            answer, nodata = read_mask(predicted[name])
            try:
                check_same_size(label, answer)
                label[answer == nodata] = ignore_index
                seed[i] = confusion_matrix(label, answer, num_classes, ignore_index)
            except DataError as error:
                raise DataError(
                    f"{predicted[name]} does not fit {masks[name]}", found=error
                ) from None
        matrices.append(seed)
    return files, np.stack(matrices)


@reports_errors
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--first", nargs="+", type=Path, required=True, help="outputs, one per seed"
    )
    parser.add_argument("--second", nargs="+", type=Path, required=True, help="outputs to compare")
    parser.add_argument("--truth", type=Path, help="folder of reference masks (segmentation)")
    parser.add_argument("--classes", nargs="+", help="class names (default: those in the masks)")
    parser.add_argument("--ignore-index", type=int, default=255, help="label to ignore")
    parser.add_argument("--resamples", type=int, default=9999, help="number of resamples")
    args = parser.parse_args()
    if args.truth is None:
        _, files, first = classification_matrices(args.first)
        _, others, second = classification_matrices(args.second)
        scores = {"top-1 accuracy": accuracy}
    else:
        rasters = (p for p in sorted(args.truth.rglob("*")) if p.suffix.lower() in RASTERS)
        classes = args.classes or next(filter(None, map(read_category_names, rasters)), None)
        if not classes:
            parser.error("--truth needs --classes, because its masks name none")
        count = len(classes)
        files, first = segmentation_matrices(args.first, args.truth, count, args.ignore_index)
        others, second = segmentation_matrices(args.second, args.truth, count, args.ignore_index)
        scores = {"mIoU": mean_iou}
        scores |= {f"IoU of {name}": class_iou(i) for i, name in enumerate(classes)}
    if files != others:
        raise DataError("--first and --second were tested on different images")
    print(f"{len(files)} images, {len(first)} and {len(second)} seeds, 95 % percentile interval")
    for name, score in scores.items():
        result = paired_bootstrap(first, second, score, args.resamples)
        print(
            f"{name}: {result.first:.2f} against {result.second:.2f}, difference "
            f"{result.difference:+.2f} points, interval [{result.low:+.2f}, {result.high:+.2f}], "
            f"standard error {result.standard_error:.2f}"
        )


if __name__ == "__main__":
    main()
