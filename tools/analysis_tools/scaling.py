r"""Plot time and memory of configs against the side of the image.

For every side, each model is built for that size and measured in a fresh process. A side is
skipped, and marked as such, if a step exceeds or is expected to exceed ``--max-seconds`` or
``--max-memory``, if the system kills the process, or if the model rejects the size. For small
differences between configs use ``benchmark.py``, which pairs their steps.

    python tools/analysis_tools/scaling.py HOOK_CONFIG PATCH_EMBED_CONFIG --labels HOOK patches \
        --sides 128 256 512 --max-seconds 20 --out scaling.png --json scaling.json
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter
from prettytable import PrettyTable
from tqdm import tqdm

from hook.engine.configs import load_config
from hook.engine.profiling import (
    Measurement,
    StepSettings,
    StepStopped,
    add_step_options,
    available_memory,
    measure,
    prepare,
    prepare_output,
    print_head,
    read_step_settings,
    relative_path,
    report_head,
    write_json,
)
from hook.errors import ConfigError, HookError, reports_errors
from hook.geo.staging import save_png
from hook.visualization.drawing import figure_to_rgb

SHARE_OF_MEMORY = 0.8  # of the memory that is free at the start


def parse_args() -> tuple[argparse.Namespace, StepSettings]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", metavar="config", help="configs to compare")
    parser.add_argument("--out", required=True, metavar="PNG", help="PNG to write")
    parser.add_argument("--labels", nargs="+", help="names of the configs (default: file names)")
    parser.add_argument(
        "--sides",
        type=int,
        nargs="+",
        metavar="PIXELS",
        default=[128, 256, 512, 1024, 2048],
        help="sides of the square images (default 128 256 512 1024 2048)",
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=60.0,
        help="skip sides with longer steps (default 60)",
    )
    parser.add_argument(
        "--max-memory",
        type=float,
        metavar="GIB",
        help="skip sides with steps above this, model excluded (default: 80 %% of free memory)",
    )
    add_step_options(parser, repeats=5)
    args = parser.parse_args()
    if args.labels is None:
        args.labels = [Path(config).stem for config in args.configs]
    elif len(args.labels) != len(args.configs):
        parser.error(f"--labels has {len(args.labels)} names for {len(args.configs)} configs")
    if len(set(args.labels)) < len(args.labels):
        parser.error(f"--labels must be unique, got {', '.join(args.labels)}")
    args.sides = sorted(set(args.sides))
    if args.sides[0] < 1:
        parser.error("--sides must be at least 1 pixel")
    for name in ("max_seconds", "max_memory"):
        if getattr(args, name) is not None and not getattr(args, name) > 0:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    return args, read_step_settings(args, parser)


def estimate(sides: Sequence[int], values: Sequence[float], side: int) -> float:
    """Extrapolate time or memory to a larger side; 0 without measurements.

    The power is that between the last two sides, at least linear in the pixels (the second power
    of the side) and at most quadratic (the fourth, as in global attention). With one measured side
    growth is linear; if it is faster, the limits stop the step while it runs.

    Args:
        sides: Measured sides, ascending.
        values: Values measured there.
        side: A larger side.
    """
    if not sides:
        return 0.0
    power = 2.0
    if len(sides) > 1 and min(values[-2:]) > 0:
        power = math.log(values[-1] / values[-2]) / math.log(sides[-1] / sides[-2])
        power = min(max(power, 2.0), 4.0)
    return values[-1] * (side / sides[-1]) ** power


def reason_to_skip(
    points: Sequence[dict[str, Any]], side: int, max_seconds: float, max_memory: float | None
) -> dict[str, str] | None:
    """Return why a side is skipped given a config's smaller sides, or None to measure it.

    Args:
        points: From :func:`measured_point` and :func:`skipped_point`, sides ascending.
        side: Side in pixels.
        max_seconds: Limit of a step.
        max_memory: Limit in bytes; None for no limit.

    Returns:
        ``reason`` (``'time'`` or ``'memory'``) and ``detail``.
    """
    if points and points[-1]["skipped"] and points[-1]["skipped"]["reason"] != "refused":
        reason = points[-1]["skipped"]["reason"]
        return {"reason": reason, "detail": f"as at {points[-1]['side']} pixels"}
    done = [point for point in points if not point["skipped"]]
    sides = [point["side"] for point in done]
    seconds = estimate(sides, [point["seconds"] for point in done], side)
    if seconds > max_seconds:
        return {"reason": "time", "detail": f"a step would take about {seconds:.3g} s"}
    memory = estimate(sides, [point["peak_memory_bytes"] or 0 for point in done], side)
    if max_memory is not None and memory > max_memory:
        return {"reason": "memory", "detail": f"a step would take about {memory / 2**30:.3g} GiB"}
    return None


def measured_point(side: int, measured: Measurement) -> dict[str, Any]:
    """Return the report entry of a measured side."""
    low, middle, high = (float(q) for q in np.percentile(measured.seconds, (25, 50, 75)))
    images = measured.shape[0]
    return {
        "side": side,
        "shape": list(measured.shape),
        "seconds": middle,
        "seconds_quartiles": [low, high],
        "ms_per_image": middle / images * 1e3,
        "ns_per_pixel": middle / (images * side**2) * 1e9,
        "peak_memory_bytes": measured.peak_memory,
        "skipped": None,
    }


def skipped_point(side: int, skipped: dict[str, str]) -> dict[str, Any]:
    """Return the report entry of a skipped side."""
    return {"side": side, "skipped": skipped}


def point_at(
    config: str,
    side: int,
    points: Sequence[dict[str, Any]],
    settings: StepSettings,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Return the report entry of a config at a side, measured or skipped."""
    limits = dict(max_seconds=args.max_seconds, max_memory=args.max_memory_bytes)
    skipped = reason_to_skip(points, side, **limits)
    if skipped is None:
        try:
            measured = measure(config, settings, side=side, repeats=args.repeats, **limits)
            return measured_point(side, measured)
        except StepStopped as error:
            skipped = {"reason": error.limit, "detail": error.what}
        except HookError as error:
            found = error.what if error.found is None else f"{error.what}: {error.found}"
            skipped = {"reason": "refused", "detail": found}
    return skipped_point(side, skipped)


def make_table(configs: Sequence[dict[str, Any]]) -> PrettyTable:
    """Format the points, one row per side and config."""
    table = PrettyTable(["side", "config", "ms per image", "ns per pixel", "peak memory (MiB)"])
    table.align = "r"
    table.align["config"] = "l"
    count = len(configs[0]["points"])
    for number in range(count):
        for config in configs:
            point = config["points"][number]
            last = config is configs[-1] and number < count - 1
            table.add_row([point["side"], config["label"], *_cells(point)], divider=last)
    return table


def _cells(point: dict[str, Any]) -> list[str]:
    if point["skipped"]:
        return [f"skipped: {point['skipped']['reason']}", "", ""]
    memory = point["peak_memory_bytes"]
    return [
        f"{point['ms_per_image']:.2f}",
        f"{point['ns_per_pixel']:.1f}",
        "-" if memory is None else f"{memory / 2**20:.1f}",
    ]


def draw(configs: Sequence[dict[str, Any]], title: str) -> np.ndarray:
    """Plot milliseconds per image and MiB against the side on log axes, (H, W, 3) uint8.

    Args:
        configs: ``label`` and ``points`` of each.
        title: Title of the figure.
    """
    figure = Figure(figsize=(11, 4.8), dpi=130, layout="constrained")
    figure.suptitle(title, fontsize=9)
    sides = [point["side"] for point in configs[0]["points"]]
    panels = figure.subplots(1, 2)
    for axes, key, scale, name in (
        (panels[0], "ms_per_image", 1.0, "ms per image"),
        (panels[1], "peak_memory_bytes", 2.0**-20, "peak memory of a step (MiB)"),
    ):
        starts = []
        for number, config in enumerate(configs):
            done = [p for p in config["points"] if not p["skipped"] and p[key]]
            values = [p[key] * scale for p in done]
            colour = f"C{number}"
            axes.plot(
                [p["side"] for p in done], values, "o-", color=colour, ms=5, label=config["label"]
            )
            if done:
                starts.append((done[0]["side"], values[0]))
            _mark_skipped(axes, config["points"], number, colour)
        axes.set_xscale("log")
        axes.set_yscale("log")
        if starts:
            # A reference slope below all curves.
            first, low = min(starts)
            low *= 0.6
            ends = np.array([first, sides[-1]], float)
            line = low * (ends / first) ** 2
            axes.plot(ends, line, "--", color="0.55", lw=1, label="linear in pixels")
        axes.set_xticks(sides, [str(side) for side in sides])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(sides[0] * 0.8, sides[-1] / 0.8)
        # Labels at 1, 2 and 5, so that ranges below a decade have some.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("side of the image (pixels)")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper left")
    return figure_to_rgb(figure)


def _mark_skipped(axes, points: Sequence[dict[str, Any]], number: int, colour: str) -> None:
    """Mark skipped sides with a cross and the reason at the lower edge."""
    height = 0.04 + 0.055 * number
    for point in points:
        if point["skipped"]:
            style = dict(ha="center", va="center", fontsize=8, color=colour)
            at, units = (point["side"], height), ("data", "axes fraction")
            axes.annotate(f"× {point['skipped']['reason']}", at, xycoords=units, **style)


def print_points(configs: Sequence[dict[str, Any]]) -> None:
    """Print the table and the reasons of skipped sides."""
    print(make_table(configs))
    for config in configs:
        for point in config["points"]:
            if point["skipped"]:
                detail = point["skipped"]["detail"]
                print(f"{config['label']} at {point['side']} pixels skipped: {detail}")


@reports_errors
def main() -> None:
    args, settings = parse_args()
    prepare_output(args, "out", "json")
    prepare(settings)
    for config in args.configs:
        load_config(config, settings.options)  # report wrong paths before the first measurement
    if args.max_memory is not None:
        args.max_memory_bytes = args.max_memory * 2**30
    else:
        free = available_memory() if settings.device == "cpu" else None
        args.max_memory_bytes = None if free is None else SHARE_OF_MEMORY * free
    report = report_head(settings, args.repeats)
    report |= {"max_seconds": args.max_seconds, "max_memory_bytes": args.max_memory_bytes}
    report["configs"] = [
        {"config": relative_path(config), "label": label, "points": []}
        for config, label in zip(args.configs, args.labels, strict=True)
    ]
    total = len(args.sides) * len(args.configs)
    with tqdm(total=total, unit="point", disable=None) as progress:
        for side in args.sides:
            for config, entry in zip(args.configs, report["configs"], strict=True):
                progress.set_postfix_str(f"{entry['label']} at {side} pixels")
                entry["points"].append(point_at(config, side, entry["points"], settings, args))
                progress.update()
            write_json(args.json, report)  # an interrupted run keeps its measurements
    points = [point for entry in report["configs"] for point in entry["points"]]
    if all(point["skipped"] for point in points):
        raise ConfigError(
            "no config could be measured at any side",
            found=points[0]["skipped"]["detail"],
            remedy="change --sides, or raise --max-seconds and --max-memory",
        )
    print_head(report, settings)
    print_points(report["configs"])
    save_png(args.out, draw(report["configs"], settings.describe()))
    print(relative_path(args.out))


if __name__ == "__main__":
    main()
