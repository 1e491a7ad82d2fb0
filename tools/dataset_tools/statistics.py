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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass
class BandStatistics:
    """Running moments of several bands, merged chunk by chunk in float64.

    Source: T. F. Chan, G. H. Golub, R. J. LeVeque, *Updating formulae and a pairwise algorithm for
    computing sample variances*, 1979.
    """

    count: int = 0
    pixels: int = 0
    mean: "np.ndarray | float" = 0.0
    squares: "np.ndarray | float" = 0.0
    minimum: "np.ndarray | None" = None
    maximum: "np.ndarray | None" = None

    def update(self, image: "np.ndarray", valid: "np.ndarray") -> None:
        """Add one image.

        Args:
            image: (H, W, C) in model units.
            valid: (H, W), nonzero where valid.
        """
        import numpy as np

        values = image[valid != 0].astype(np.float64)  # N C
        self.pixels += valid.size
        if not len(values):
            return
        low, high = values.min(axis=0), values.max(axis=0)
        self.minimum = low if self.minimum is None else np.minimum(self.minimum, low)
        self.maximum = high if self.maximum is None else np.maximum(self.maximum, high)
        mean = values.mean(axis=0)
        squares = ((values - mean) ** 2).sum(axis=0)
        total = self.count + len(values)
        delta = mean - self.mean
        self.squares = self.squares + squares + delta**2 * (self.count * len(values) / total)
        self.mean = self.mean + delta * (len(values) / total)
        self.count = total

    def result(self) -> dict[str, Any]:
        """Return mean, std (of the population), min, max per band; the share of valid pixels."""
        import numpy as np

        return {
            "mean": self.mean.tolist(),
            "std": np.sqrt(self.squares / self.count).tolist(),
            "min": self.minimum.tolist(),
            "max": self.maximum.tolist(),
            "valid_share": self.count / self.pixels,
            "valid_pixels": self.count,
            "pixels": self.pixels,
        }


def plain_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the datasets inside MMEngine's wrappers, each once however often it is repeated."""
    if hasattr(dataset, "datasets"):
        for part in dataset.datasets:
            yield from plain_datasets(part)
    elif hasattr(dataset, "dataset"):
        yield from plain_datasets(dataset.dataset)
    else:
        yield dataset


def without_pipelines(cfg: Any) -> Any:
    """Copy a dataset's config with empty pipelines, so that images stay as they are read."""
    if isinstance(cfg, Mapping):
        copied = {key: without_pipelines(value) for key, value in cfg.items()}
        return {**copied, "pipeline": []} if "pipeline" in copied else copied
    if isinstance(cfg, list | tuple):
        return type(cfg)(without_pipelines(value) for value in cfg)
    return cfg


def samples(dataset: Any) -> Iterator[dict[str, Any]]:
    """Yield every sample of a dataset, a folder of GeoTIFFs by its full cover."""
    if getattr(dataset, "mode", None) == "random":
        dataset.mode = "cover"
    for index in range(len(dataset)):
        yield dataset[index]


def inside_scene(sample: Mapping[str, Any]) -> tuple[slice, slice]:
    """Tell which part of a chip lies in its scene: padding is no missing data."""
    geo = sample.get("geo") or {}
    if "window" not in geo or "scene_shape" not in geo:
        return slice(None), slice(None)
    row, col, height, width = geo["window"]
    rows, cols = geo["scene_shape"]
    return slice(max(-row, 0), min(height, rows - row)), slice(max(-col, 0), min(width, cols - col))


def compute_statistics(datasets: Iterable[Any], quiet: bool = False) -> dict[str, Any]:
    """Compute the statistics over all samples of some datasets.

    Args:
        datasets: Datasets without pipeline, whose samples hold ``img`` and, where known, ``valid``.
        quiet: Show no progress bar.

    Returns:
        See :meth:`BandStatistics.result`, and ``bands`` where the dataset meta names them.

    Raises:
        DataError: If no pixel is valid, or the datasets differ in bands.
    """
    import numpy as np
    from tqdm import tqdm

    from hook.datasets.bands import to_model_units
    from hook.errors import DataError

    datasets = list(datasets)
    statistics = BandStatistics()
    num_bands, bands = None, None
    for dataset in datasets:
        meta = {**dataset.metainfo, "mean": None}
        bands = bands or meta.get("bands")
        progress = tqdm(
            samples(dataset), total=len(dataset), unit="chip", disable=True if quiet else None
        )
        for sample in progress:
            part = inside_scene(sample)
            image = np.atleast_3d(sample["img"])[part]
            valid = sample.get("valid")
            valid = np.ones(image.shape[:2], np.uint8) if valid is None else valid[part]
            if num_bands is not None and image.shape[2] != num_bands:
                raise DataError(
                    f"{sample.get('img_path', 'a sample')}: another band count",
                    expected=num_bands,
                    found=image.shape[2],
                    remedy="choose bands with metainfo['bands']",
                )
            num_bands = image.shape[2]
            scaled = to_model_units(image.transpose(2, 0, 1), valid, meta).transpose(1, 2, 0)
            statistics.update(scaled, valid)
    if not statistics.count:
        raise DataError(
            "no valid pixel in the dataset",
            expected="at least one",
            found=f"{statistics.pixels} pixels, all without data",
            remedy="correct metainfo['nodata'] or the split",
        )
    result = statistics.result()
    if bands is not None:
        result = {"bands": list(bands), **result}
    return result


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
