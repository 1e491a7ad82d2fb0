"""Compute the statistics of every band over a dataset, once.

    python tools/dataset_tools/statistics.py CONFIG [--split train] [--out file.json]

Mean and standard deviation are in model units (``value * scale + offset`` of the dataset meta),
over valid pixels only; padding and nodata count nowhere. The printed lines go into the metainfo.
"""

import sys
from pathlib import Path

# A script's own folder leads ``sys.path``, where this file would hide the standard library's
# ``statistics`` from every library that wants it.
sys.path[:] = [
    entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent
]

import argparse
import importlib
import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

if __name__ != "statistics":  # else a library asked for the standard one, see the end
    from hook.datasets.statistics import compute_statistics, plain_datasets, without_pipelines


def snippet(result: Mapping[str, Any]) -> str:
    """Write mean and std as lines for a config."""

    def numbers(values: list[float]) -> str:
        return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"

    return f"mean={numbers(result['mean'])},\nstd={numbers(result['std'])},"


def write_json(result: Mapping[str, Any], path: Path) -> None:
    """Write the result whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(result, stream, indent=2)
            stream.write("\n")
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from hook.engine.runner import add_config_options

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("config", help="config file")
    parser.add_argument("--split", default="train", choices=("train", "val", "test"))
    parser.add_argument("--out", type=Path, help="JSON file for the numbers in full precision")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    add_config_options(parser)
    return parser.parse_args(argv)


def run(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from mmengine.registry import init_default_scope

    from hook.engine.runner import config_errors, load_config, make_folder
    from hook.errors import ConfigError
    from hook.registry import DATASETS

    cfg = load_config(args.config, args.cfg_options, needs_model=False)
    init_default_scope(cfg.get("default_scope", "hook"))
    loader = cfg.get(f"{args.split}_dataloader")
    if not loader or "dataset" not in loader:
        raise ConfigError(
            f"{args.config} has no {args.split}_dataloader",
            expected=f"{args.split}_dataloader=dict(dataset=...)",
            found=", ".join(key for key in cfg if key.endswith("_dataloader")) or "none",
            remedy="choose another --split",
        )
    if args.out is not None:
        make_folder(args.out.parent, "--out in")
    with config_errors(f"{args.split}_dataloader.dataset"):
        dataset = DATASETS.build(without_pipelines(loader.dataset.to_dict()))
    result = compute_statistics(plain_datasets(dataset), quiet=args.quiet)
    names = result.get("bands") or range(1, len(result["mean"]) + 1)
    print(f"{'band':>12} {'mean':>12} {'std':>12} {'min':>12} {'max':>12}")
    columns = (result[key] for key in ("mean", "std", "min", "max"))
    for name, *values in zip(names, *columns, strict=True):
        print(f"{name!s:>12} " + " ".join(f"{value:12.6g}" for value in values))
    print(f"valid: {result['valid_share']:.4%} of {result['pixels']} pixels\n")
    print(snippet(result))
    if args.out is not None:
        write_json(result, args.out)


def main(argv: list[str] | None = None) -> None:
    from hook.errors import reports_errors

    reports_errors(run)(argv)


if __name__ == "__main__":
    main()
elif __name__ == "statistics":
    # A library that another script of this folder uses asked for the standard one.
    del sys.modules[__name__]
    sys.modules[__name__] = importlib.import_module(__name__)
