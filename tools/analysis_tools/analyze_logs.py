"""Draw curves of one or several runs from their logs."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hook.errors import ConfigError, DataError, reports_errors
from hook.geo.staging import save_png
from hook.visualization.drawing import figure_to_rgb

Curve = tuple[list[float], list[float]]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", nargs="+", help="work dirs, or scalars.json files")
    parser.add_argument("--out", required=True, metavar="PNG", help="PNG to write")
    parser.add_argument(
        "--keys",
        nargs="+",
        default=["loss", "mIoU", "accuracy/top1"],
        help="quantities, one panel each (default: those of loss, mIoU, accuracy/top1 in the logs)",
    )
    parser.add_argument("--legend", nargs="+", help="names of the logs (default: their folders)")
    args = parser.parse_args()
    if args.legend and len(args.legend) != len(args.logs):
        parser.error(f"--legend has {len(args.legend)} names for {len(args.logs)} logs")
    return args


def read_log(path: Path) -> list[dict]:
    """Read the records of a run in order, including the parts of a resumed run.

    Raises:
        DataError: If there is no log, or a line is not a JSON record.
    """
    files = [path] if path.is_file() else sorted(path.glob("*/vis_data/scalars.json"))
    if not files:
        raise DataError(
            f"{path} has no log",
            expected="a work dir with <date>/vis_data/scalars.json, or such a file",
            remedy="check the path",
        )
    records = []
    for file in files:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            try:
                records.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                raise DataError(
                    f"{file}, line {number}: not a log record",
                    expected="one JSON object per line, as MMEngine writes them",
                    found=line[:60],
                ) from None
    return records


def curve_of(records: Sequence[dict], key: str) -> Curve:
    """Return the steps and values of a quantity; the last value logged at a step counts."""
    points = {r["step"]: r[key] for r in records if key in r and "step" in r}
    steps = sorted(points)
    return steps, [points[step] for step in steps]


def draw(curves: dict[str, dict[str, Curve]], units: dict[str, str]) -> np.ndarray:
    """Draw one panel per quantity and one line per run, (H, W, 3) uint8.

    Args:
        curves: Curve by quantity and run.
        units: Unit of the steps by quantity.
    """
    figure = Figure(figsize=(5 * len(curves), 3.6), dpi=120, layout="constrained")
    for axes, (key, runs) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        for name, (steps, values) in runs.items():
            axes.plot(steps, values, label=name, marker="." if len(steps) < 30 else "", lw=1.4)
        axes.set_title(key)
        axes.set_xlabel(units[key])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure_to_rgb(figure)


@reports_errors
def main() -> None:
    args = parse_args()
    names = args.legend or [Path(log).resolve().name for log in args.logs]
    runs = {}
    for name, log in zip(names, args.logs, strict=True):
        unique = name if name not in runs else f"{name} ({len(runs)})"
        runs[unique] = read_log(Path(log))
    curves: dict[str, dict[str, Curve]] = {}
    units = {}
    for key in args.keys:
        found = {name: curve_of(records, key) for name, records in runs.items()}
        found = {name: curve for name, curve in found.items() if curve[0]}
        if not found:
            continue
        curves[key] = found
        training = any("iter" in r for records in runs.values() for r in records if key in r)
        units[key] = "iteration" if training else "epoch or iteration of the validation"
    if not curves:
        logged = sorted({key for records in runs.values() for r in records for key in r})
        raise ConfigError(
            f"--keys: the logs have none of {', '.join(args.keys)}",
            expected=f"one of {', '.join(logged)}",
        )
    save_png(args.out, draw(curves, units), inputs=args.logs)
    print(args.out)


if __name__ == "__main__":
    main()
