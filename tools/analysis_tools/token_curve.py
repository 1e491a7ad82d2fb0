r"""Measure a classifier over numbers of tokens, image sizes, or shares of explained variance.

``--num-tokens``, ``--sides`` or ``--explained`` varies; every value is tested on the test images
with each checkpoint (one per training seed). With ``--sides`` the test images are resampled. Time
is that of the model per image, the median over the batches; measure it on an idle machine.
``--beside`` adds other reports of this tool to the plot (such as fixed numbers of tokens).

    python tools/analysis_tools/token_curve.py CONFIG seed0.pth seed1.pth seed2.pth \
        --num-tokens 1 2 4 6 8 12 16 --json curve.json --out curve.png
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from prettytable import PrettyTable
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from hook.engine.configs import add_config_options, load_config
from hook.engine.profiling import (
    command_line,
    device_name,
    prepare_output,
    relative_path,
    write_json,
)
from hook.engine.runner import HookRunner
from hook.errors import ConfigError, DataError, reports_errors
from hook.evaluation.samples import no_prediction
from hook.geo.staging import save_png
from hook.inference.models import chosen_tokens, load_model
from hook.tokenizers import spread_cells
from hook.visualization.drawing import figure_to_rgb

AXES = {
    "num_tokens": "tokens",
    "sides": "side of the image (pixels)",
    "explained": "mean number of tokens",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config of a scene classification")
    parser.add_argument("checkpoints", nargs="+", help="checkpoints, one per seed")
    varied = parser.add_mutually_exclusive_group(required=True)
    varied.add_argument("--num-tokens", type=int, nargs="+", metavar="K", help="tokens per image")
    varied.add_argument("--sides", type=int, nargs="+", metavar="PIXELS", help="sides of images")
    varied.add_argument(
        "--explained",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="share of the variance of the seeds that the tokens must explain",
    )
    parser.add_argument("--json", metavar="FILE", help="write the report here")
    parser.add_argument("--out", metavar="PNG", help="plot the curve here")
    parser.add_argument("--label", help="name of the config in the plot (default: file name)")
    parser.add_argument("--beside", nargs="+", default=[], metavar="JSON", help="other reports")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    add_config_options(parser)
    args = parser.parse_args()
    args.varied = next(name for name in AXES if getattr(args, name) is not None)
    return args


def read_reports(paths: Sequence[str], varied: str) -> list[dict[str, Any]]:
    """Read other reports; raise DataError if a file is not one or varies something else."""
    reports = []
    for path in paths:
        try:
            report = json.loads(Path(path).read_text())
            kinds = {report["varied"], varied}
            report["points"], report["label"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a report of this tool", found=error) from None
        # --num-tokens and --explained share an axis.
        if len(kinds) > 1 and "sides" in kinds:
            raise DataError(f"{path} varies {report['varied']}", expected=varied)
        reports.append(report)
    return reports


@torch.inference_mode()
def test(
    model: nn.Module, loader: DataLoader, side: int | None, num_tokens: int | None = None
) -> dict[str, Any]:
    """Classify a dataset.

    Args:
        model: A scene classifier.
        loader: Its test images.
        side: Side in pixels to resample the images to; None keeps their size.
        num_tokens: Number of tokens; None uses the model's default.

    Returns:
        ``accuracy`` in percent, mean number of ``tokens`` and ``ms_per_image``.
    """
    right = count = tokens = 0
    seconds = []
    for batch in loader:
        data = model.data_preprocessor(batch, False)
        inputs = data["inputs"]
        facts = model.image_facts(inputs, data["data_samples"])
        if side is not None:
            facts = facts.change_images(lambda valid: spread_cells(valid, (side, side)))
            if facts.resolution is not None:
                facts = replace(facts, resolution=facts.resolution * inputs.shape[-1] / side)
            inputs = F.interpolate(
                inputs, size=(side, side), mode="bilinear", antialias=True, align_corners=False
            )
        start = time.perf_counter()
        scores, found = model.infer(inputs, facts, num_tokens, with_tokens=True)
        if inputs.is_cuda:
            torch.cuda.synchronize(inputs.device)
        seconds.append((time.perf_counter() - start) / len(inputs))
        if not scores.isfinite().all():
            raise no_prediction(str(data["data_samples"][0].get("img_path", "an image")))
        truth = torch.tensor([int(sample.gt_label) for sample in data["data_samples"]])
        right += int((scores.argmax(dim=1).cpu() == truth).sum())
        count += len(inputs)
        tokens += sum(one.num_tokens for one in found)
    return {
        "accuracy": 100 * right / count,
        "tokens": tokens / count,
        "ms_per_image": 1e3 * float(np.median(seconds)),
    }


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Test every checkpoint at every value.

    Returns:
        Per value: ``value``, ``accuracy`` per checkpoint, mean ``tokens`` and ``ms_per_image``.
    """
    cfg = load_config(args.config, args.cfg_options)
    values = getattr(args, args.varied)
    runs: list[list[dict[str, Any]]] = [[] for _ in values]
    loader = None
    total = len(values) * len(args.checkpoints)
    with tqdm(total=total, unit="test", disable=None) as progress:
        for checkpoint in args.checkpoints:
            model = load_model((cfg, checkpoint), device=args.device)
            _check(model, args)
            if loader is None:
                loader = HookRunner.build_dataloader(cfg.test_dataloader)
            for value, results in zip(values, runs, strict=True):
                tokens = value if args.varied == "num_tokens" else None
                if args.varied == "explained":
                    model.backbone.explained = value
                side = value if args.varied == "sides" else None
                results.append(test(model, loader, side, tokens))
                progress.update()
    points = []
    for value, results in zip(values, runs, strict=True):
        point: dict[str, Any] = {"value": value}
        point["accuracy"] = [result["accuracy"] for result in results]
        for key in ("tokens", "ms_per_image"):
            known = [result[key] for result in results if result[key] is not None]
            point[key] = float(np.mean(known)) if known else None
        points.append(point)
    return points


def _check(model: nn.Module, args: argparse.Namespace) -> None:
    """Check the model and the values before the first test."""
    backbone = getattr(model, "backbone", None)
    if getattr(model, "head", None) is None or not hasattr(backbone, "tokenizer"):
        raise ConfigError(
            f"{args.config} is not a scene classification with a tokenizer",
            expected="a hook.TokenClassifier with a hook.TokenViT",
            found=type(model).__name__,
        )
    for tokens in args.num_tokens or []:
        chosen_tokens(model, tokens)
    wrong = [share for share in args.explained or [] if not 0 < share <= 1]
    if wrong or (args.explained and not hasattr(backbone.tokenizer, "count_tokens")):
        raise ConfigError(
            "--explained cannot be used",
            expected="shares above 0 and at most 1, and a model with hook.HookTokenizer",
            found=wrong or type(backbone.tokenizer).__name__,
        )
    small = [side for side in args.sides or [] if side < 4]
    if small:
        raise ConfigError("--sides", expected="4 pixels or more", found=small)


def make_table(report: dict[str, Any]) -> PrettyTable:
    """Format a report, one row per value."""
    table = PrettyTable([report["varied"], "accuracy", "s.d.", "mean tokens", "ms per image"])
    table.align = "r"
    for point in report["points"]:
        spread = np.std(point["accuracy"], ddof=1) if len(point["accuracy"]) > 1 else np.nan
        table.add_row(
            [
                point["value"],
                f"{np.mean(point['accuracy']):.2f}",
                f"{spread:.2f}",
                "-" if point["tokens"] is None else f"{point['tokens']:.2f}",
                f"{point['ms_per_image']:.2f}",
            ]
        )
    return table


def draw(reports: Sequence[dict[str, Any]], varied: str) -> np.ndarray:
    """Plot accuracy with its spread over the seeds, and time, (H, W, 3) uint8."""
    figure = Figure(figsize=(10, 4), dpi=130, layout="constrained")
    accuracy, times = figure.subplots(1, 2)
    for report in reports:
        points = report["points"]
        at = [p["value"] if varied == "sides" else p["tokens"] for p in points]
        means = [np.mean(p["accuracy"]) for p in points]
        spread = [np.std(p["accuracy"], ddof=1) if len(p["accuracy"]) > 1 else 0 for p in points]
        style = "o-" if len(points) > 1 else "s"
        accuracy.errorbar(at, means, spread, fmt=style, ms=5, capsize=3, label=report["label"])
        times.plot(at, [p["ms_per_image"] for p in points], style, ms=5, label=report["label"])
    for axes, name in ((accuracy, "accuracy (%)"), (times, "ms per image")):
        axes.set_xlabel(AXES[varied])
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    times.set_ylim(bottom=0)
    accuracy.legend(fontsize=8)
    return figure_to_rgb(figure)


@reports_errors
def main() -> None:
    args = parse_args()
    prepare_output(args, "json", "out")
    others = read_reports(args.beside, args.varied)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    report = {
        "command": command_line(sys.argv),
        "config": relative_path(args.config),
        "label": args.label or Path(args.config).stem,
        "device": device_name(args.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "varied": args.varied,
        "points": measure(args),
    }
    print(make_table(report))
    write_json(args.json, report)
    if args.out is not None:
        save_png(args.out, draw([report, *others], args.varied))
        print(relative_path(args.out))


if __name__ == "__main__":
    main()
