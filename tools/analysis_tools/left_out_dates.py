r"""Measure the error of a date that is left out of a time series.

Each date of each test series is left out in turn, and given back by the nearest date, by linear
interpolation, by a harmonic fit (of the other dates of each pixel), by a linear regression, and by
each autoencoder, which must fill (``hook.SeriesAutoencoder`` with ``decoder.fills=True``). The
split of the test series in the config is what keeps them apart from the training in space. A model
has seen the date elsewhere in training, and so has the regression: from all bands of the other
dates of a pixel to those of the date, fitted to the training series (ridge; missing values are
their mean). The first three methods have not. For each model two rows more: the error of a date
that is not left out, with the whole series and alone, as a single image.

Errors are root mean squared errors in the units of the data, over pixels that are valid at the date
and at one other; ``between`` is without the first and the last date, which are extrapolated. They
are written after each row, and rows of a former run are kept if data, model and checkpoint are the
same.

    python tools/analysis_tools/left_out_dates.py CONFIG seed0.pth seed1.pth --json dates.json
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from prettytable import PrettyTable
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import Dataset

from hook.checkpoint import load_weights
from hook.engine.configs import add_config_options, load_config
from hook.engine.devices import to_device
from hook.engine.models import build_model, use_default_scope
from hook.engine.profiling import command_line, prepare_output, write_json
from hook.engine.runner import HookRunner
from hook.errors import ConfigError, DataError, reports_errors
from hook.evaluation.left_out_dates import BASELINES
from hook.models import SeriesAutoencoder

Predict = Callable[[dict, int], np.ndarray]
WAYS = {"left out": "one", "whole series": "none", "date alone": "others"}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config of a hook.SeriesAutoencoder")
    parser.add_argument("checkpoints", nargs="*", help="its checkpoints, one per seed")
    parser.add_argument("--json", required=True, metavar="FILE", help="write the rows here")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    add_config_options(parser)
    return parser.parse_args()


def load_series(cfg: Config, checkpoint: str, device: str) -> SeriesAutoencoder:
    """Load an autoencoder of series that fills dates."""
    model = build_model(cfg)
    if not isinstance(model, SeriesAutoencoder) or model.decoder.mask_tokens is None:
        raise ConfigError(
            f"{cfg.filename} gives no dates that it did not see",
            expected="hook.SeriesAutoencoder with decoder.fills=True",
            found=type(model).__name__,
            remedy="give a config of configs/autoencoders/space_time",
        )
    load_weights(model, checkpoint)
    return to_device(model, device).eval()


@torch.inference_mode()
def by_model(model: SeriesAutoencoder, withheld: str, packed: dict, date: int) -> np.ndarray:
    """Return a date (C, H, W) decoded by a model that does not see one, none, or all others."""
    batch = pseudo_collate([packed])
    data = model.data_preprocessor(batch, False)
    dates = range(len(packed["inputs"]))
    hidden = {"one": [date], "none": [], "others": [k for k in dates if k != date]}[withheld]
    data["data_samples"][0].set_metainfo(dict(hidden_dates=hidden))
    return model.predict(**data)[0].reconstruction[date].cpu().numpy()


def by_baseline(name: str, packed: dict, date: int) -> np.ndarray:
    """Return a date (C, H, W) from the other dates of each pixel."""
    days, values = known_values(packed)
    others = (np.arange(len(days)) != date) & np.isfinite(days)
    return BASELINES[name](days[others], values[others], days[date])


class Regression:
    """Linear regression from the other dates of a pixel.

    Args:
        dataset: The training series.
    """

    def __init__(self, dataset: Dataset) -> None:
        parts = [known_values(dataset[index])[1] for index in range(len(dataset))]
        self.pixels = np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], axis=2)
        self.fitted: dict[int, Pipeline] = {}

    def __call__(self, packed: dict, date: int) -> np.ndarray:
        """Return a date (C, H, W)."""
        if date not in self.fitted:
            known = np.isfinite(self.pixels[date]).all(axis=0)
            if not known.any():
                raise DataError(
                    f"no pixel of the training series is valid at date {date + 1}",
                    remedy="check the nodata value and the split of train_dataloader",
                )
            imputer = SimpleImputer(keep_empty_features=True)
            fit = make_pipeline(imputer, StandardScaler(), Ridge())
            others, own = self._features(self.pixels, date), self.pixels[date].T
            self.fitted[date] = fit.fit(others[known], own[known])
        values = known_values(packed)[1]
        found = self.fitted[date].predict(
            self._features(values.reshape(*values.shape[:2], -1), date)
        )
        return found.T.reshape(values.shape[1:])

    @staticmethod
    def _features(pixels: np.ndarray, date: int) -> np.ndarray:
        return np.delete(pixels, date, axis=0).reshape(-1, pixels.shape[2]).T


def known_values(packed: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return the days (T,) and the values (T, C, H, W) of a sample, NaN where unknown."""
    sample = packed["data_samples"]
    days, values = np.array(sample.dates, float), packed["inputs"].double().numpy()
    known = sample.valid_mask.data.numpy()[:, None] > 0
    return days, np.where(known & np.isfinite(days).reshape(-1, 1, 1, 1), values, np.nan)


def errors_of_date(dataset: Dataset, predict: Predict, date: int) -> dict[str, Any] | None:
    """Return the errors of a date over all series; None if it has no pixel to compare."""
    squares, pixels = 0.0, 0
    for packed in map(dataset.__getitem__, range(len(dataset))):
        _, values = known_values(packed)
        there = ~np.isnan(values).any(axis=1)
        compared = there[date] & np.delete(there, date, axis=0).any(axis=0)
        if not compared.any():
            continue
        error = (predict(packed, date) - values[date])[:, compared]
        if not np.isfinite(error).all():
            raise DataError(
                "a date is not given back everywhere",
                expected="finite values where the date has data",
                found=f"{int((~np.isfinite(error)).any(axis=0).sum())} pixels without",
                remedy="check whether the training diverged",
            )
        squares, pixels = squares + (error**2).sum(axis=1), pixels + error.shape[1]
    if not pixels:
        return None
    bands = np.sqrt(squares / pixels)
    return {
        "rmse": float(np.sqrt(np.mean(bands**2))),
        "rmse_per_band": [round(float(value), 4) for value in bands],
        "pixels": pixels,
    }


def read_rows(path: Path, settings: dict) -> dict[str, dict]:
    """Return the rows of a former run with the same settings; DataError if it has others."""
    if not path.exists():
        return {}
    try:
        report = json.loads(path.read_text())
        same, rows = report["settings"] == settings, dict(report["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no report of this tool", found=error) from None
    if not same:
        raise DataError(
            f"{path} is of other data",
            expected=settings,
            found=report["settings"],
            remedy="give another file to --json, or remove this one",
        )
    return rows


def methods(cfg: Config, args: argparse.Namespace) -> Iterator[tuple[str, str, Predict]]:
    """Yield each method: its name, a digest of its model, and the method."""
    for name in BASELINES:
        yield name, "", partial(by_baseline, name)
    own = dict(cfg.test_dataloader.dataset, split=cfg.train_dataloader.dataset.split)
    train = HookRunner.build_dataloader(cfg.test_dataloader | dict(dataset=own)).dataset
    regression = Regression(train)
    yield "linear regression", hashlib.sha256(regression.pixels.tobytes()).hexdigest(), regression
    for checkpoint in args.checkpoints:
        model, digest = load_series(cfg, checkpoint, args.device), hashlib.sha256()
        digest.update(str(cfg.model.to_dict()).encode())
        digest.update(Path(checkpoint).read_bytes())
        for way, withheld in WAYS.items():
            yield f"{checkpoint}, {way}", digest.hexdigest(), partial(by_model, model, withheld)


def draw_table(rows: dict[str, dict], dates: list[str]) -> str:
    """Return the errors of each method at each date, without the first and the last, and over all.

    Args:
        rows: Of the report.
        dates: In the order of the layers, ``"missing"`` or ISO.
    """
    known = [date for date in dates if date != "missing"]
    ends = "missing", min(known, default=""), max(known, default="")
    between = [date not in ends for date in dates]
    # Columns need names of their own.
    seen = [dates[:number].count(date) for number, date in enumerate(dates)]
    heads = [f"{date} ({n + 1})" if n else date for date, n in zip(dates, seen, strict=True)]
    table = PrettyTable(["method", *heads, "between", "all dates"], align="r")
    table.align["method"] = "l"
    for name, row in rows.items():
        found = [one and one["rmse"] for one in row["dates"]]
        cells = ["" if value is None else f"{value:.1f}" for value in found]
        for chosen in (between, [True] * len(dates)):
            squares = [x**2 for x, use in zip(found, chosen, strict=True) if use and x is not None]
            cells.append(f"{np.sqrt(np.mean(squares)):.1f}" if squares else "")
        table.add_row([name, *cells])
    return str(table)


@reports_errors
def main() -> None:
    args = parse_args()
    prepare_output(args, "json")
    out, cfg = Path(args.json), load_config(args.config, args.cfg_options)
    use_default_scope(cfg)
    dataset = HookRunner.build_dataloader(cfg.test_dataloader).dataset
    first = dataset[0]
    if first["inputs"].ndim != 4 or len(first["inputs"]) < 2:
        raise DataError(
            f"{cfg.filename}: test_dataloader has no time series",
            expected="samples (T, C, H, W) of several dates, such as those of hook.GeoTIFFSeries",
            found=tuple(first["inputs"].shape),
            remedy="give a config of configs/autoencoders/space_time",
        )
    days = known_values(first)[0]
    dates = ["missing" if np.isnan(day) else str(np.datetime64(int(day // 1), "D")) for day in days]
    data = hashlib.sha256(json.dumps(cfg.test_dataloader.dataset.to_dict(), default=str).encode())
    for index in range(len(dataset)):
        data.update(known_values(dataset[index])[1].tobytes())
    settings = {"data": data.hexdigest(), "dates": dates}
    rows = read_rows(out, settings)
    for name, digest, predict in methods(cfg, args):
        if name in rows and rows[name].get("model") == digest:
            continue
        found = [errors_of_date(dataset, predict, date) for date in range(len(dates))]
        if not any(found):
            raise DataError(
                "no pixel is valid at two dates",
                found=f"{len(dataset)} series",
                remedy="check the nodata value and the split of test_dataloader",
            )
        rows[name] = {"model": digest, "dates": found}
        write_json(out, {"command": command_line(sys.argv), "settings": settings, "rows": rows})
    print(draw_table(rows, dates))


if __name__ == "__main__":
    main()
