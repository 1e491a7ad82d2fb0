"""Test a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``."""

import argparse
import json
from pathlib import Path

from mmengine.dist import is_main_process

from hook.checkpoint import load_checkpoint
from hook.engine.runner import (
    add_common_options,
    build_runner,
    prepare,
    set_output,
    set_show_dir,
    set_tta,
)
from hook.errors import ConfigError, reports_errors
from hook.geo.staging import atomic_write


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Test a checkpoint on the config's test data.")
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="write predictions: GeoTIFF masks of georeferenced data, PNG masks of other images, "
        "predictions.csv of a classification; with metrics.json and confusion_matrix.json. Files "
        "of an earlier test are replaced, others of these names are kept",
    )
    parser.add_argument(
        "--show-dir", metavar="FOLDER", help="draw image, truth, prediction and tokens as PNGs"
    )
    parser.add_argument(
        "--tta", action="store_true", help="average over flips and quarter turns of each image"
    )
    add_common_options(parser)
    return parser.parse_args()


def is_metrics(path: Path) -> bool:
    """Return whether a file was written by this tool: a dictionary of numbers."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and all(isinstance(v, int | float) for v in content.values())


@reports_errors
def main() -> None:
    args = parse_args()
    cfg = prepare(args, fixed=("load_from", "resume"))
    if cfg.get("test_dataloader") is None:
        raise ConfigError(
            f"config {args.config} has no test data",
            expected="test_dataloader, test_cfg and test_evaluator",
            remedy="add them to the config",
        )
    load_checkpoint(args.checkpoint)  # report a bad file before the data are read
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.out is not None:
        set_output(cfg, args.out)
    if args.show_dir is not None:
        set_show_dir(cfg, args.show_dir)
    if args.tta:
        set_tta(cfg)
    metrics = build_runner(cfg).test()
    if args.out is not None and is_main_process():
        path = Path(args.out) / "metrics.json"
        with atomic_write(path, ours=is_metrics) as partial:
            partial.write_text(json.dumps(metrics, indent=2, default=float))


if __name__ == "__main__":
    main()
