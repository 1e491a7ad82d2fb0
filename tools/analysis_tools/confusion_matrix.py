"""Draw the confusion matrix that ``tools/test.py --out FOLDER`` wrote."""

import argparse
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from hook.errors import reports_errors
from hook.evaluation.confusion import load_confusion_matrix
from hook.geo.staging import save_png
from hook.visualization.drawing import figure_to_rgb

_NUMBERED_CLASSES = 25  # with more classes the numbers in the cells are illegible


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", help="folder given to tools/test.py --out, or its JSON file")
    parser.add_argument("picture", help="PNG to write")
    parser.add_argument(
        "--normalize",
        choices=["true", "pred", "none"],
        default="true",
        help="share of each true class (default), of each predicted class, or counts",
    )
    parser.add_argument("--title", default="", help="title of the figure")
    return parser.parse_args()


def normalize(matrix: np.ndarray, mode: str) -> np.ndarray:
    """Divide counts (K, K) by their row sums, their column sums, or not at all."""
    if mode == "none":
        return matrix.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return matrix / matrix.sum(axis=1 if mode == "true" else 0, keepdims=True)


def draw(values: np.ndarray, classes: Sequence[str], mode: str, title: str) -> np.ndarray:
    """Draw a confusion matrix, (H, W, 3) uint8.

    Args:
        values: (K, K), rows are true classes; NaN where a class does not occur.
        classes: K names.
        mode: As in :func:`normalize`.
        title: Title of the figure.
    """
    side = max(4.0, 0.45 * len(classes) + 2.5)
    figure = Figure(figsize=(side + 1, side), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    top = 1.0 if mode != "none" else max(float(np.nanmax(values, initial=1.0)), 1.0)
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=top)
    figure.colorbar(image, ax=axes, shrink=0.8)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if title:
        axes.set_title(title)
    if len(classes) <= _NUMBERED_CLASSES:
        for row, column in np.ndindex(values.shape):
            value = values[row, column]
            if np.isnan(value):
                continue
            text = f"{value:.0f}" if mode == "none" else f"{value * 100:.0f}"
            colour = "white" if value > 0.6 * top else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    return figure_to_rgb(figure)


@reports_errors
def main() -> None:
    args = parse_args()
    classes, matrix = load_confusion_matrix(args.results)
    picture = draw(normalize(matrix, args.normalize), classes, args.normalize, args.title)
    save_png(args.picture, picture, inputs=[args.results])
    print(args.picture)


if __name__ == "__main__":
    main()
