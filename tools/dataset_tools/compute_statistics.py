"""Compute band statistics of a dataset.

    python tools/dataset_tools/compute_statistics.py CONFIG [--split train] [--out file.json]

Mean and standard deviation are in model units (``value * scale + offset`` of the dataset meta) over
valid pixels, without padding and nodata. Copy the printed lines into the metainfo.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hook.datasets.statistics import compute_statistics, plain_datasets, without_pipelines
from hook.engine.configs import add_config_options, build_dataset, load_config, make_folder
from hook.errors import ConfigError, reports_errors
from hook.geo.staging import atomic_write, check_output


def snippet(result: Mapping[str, Any]) -> str:
    """Format mean and std as lines of a config."""

    def numbers(values: list[float]) -> str:
        return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"

    return f"mean={numbers(result['mean'])},\nstd={numbers(result['std'])},"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("config", help="config file")
    parser.add_argument("--split", default="train", choices=("train", "val", "test"))
    parser.add_argument("--out", type=Path, help="JSON file to write, in full precision")
    parser.add_argument("--quiet", action="store_true", help="hide the progress bar")
    add_config_options(parser)
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options, needs_model=False)
    if args.out is not None:
        make_folder(args.out.parent, "--out in")
        if args.out.suffix.lower() != ".json":
            raise ConfigError(f"--out {args.out}", expected="a name ending in .json")
        check_output(args.out, [args.config], ConfigError)
    dataset = build_dataset(cfg, args.split, lambda section: without_pipelines(section.to_dict()))
    result = compute_statistics(plain_datasets(dataset), quiet=args.quiet)
    names = result.get("bands") or range(1, len(result["mean"]) + 1)
    print(f"{'band':>12} {'mean':>12} {'std':>12} {'min':>12} {'max':>12}")
    columns = (result[key] for key in ("mean", "std", "min", "max"))
    for name, *values in zip(names, *columns, strict=True):
        print(f"{name!s:>12} " + " ".join(f"{value:12.6g}" for value in values))
    print(f"valid: {result['valid_share']:.4%} of {result['pixels']} pixels\n")
    print(snippet(result))
    if args.out is not None:
        with atomic_write(args.out) as scratch:
            scratch.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
