"""Draw samples of a config's dataset after its pipeline as PNG contact sheets.

    python tools/analysis_tools/browse_dataset.py configs/hook/<config>.py --split train --num 24

Images are in model units, stretched with the 2nd and 98th percentile of a sheet; pixels without
data are white. Next to each image its mask is drawn over it in class colours, ignored pixels as
stripes.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from tqdm import tqdm

from hook.engine.configs import add_config_options, build_dataset, load_config, make_folder
from hook.errors import ConfigError, reports_errors
from hook.geo.staging import save_png
from hook.geo.styles import distinct_palette
from hook.visualization.drawing import choose_rgb, figure_to_rgb, render_labels, stretch_to_rgb

SPLITS = ("train", "val", "test")
COLUMNS, ROWS = 6, 4
CELL_INCHES = 2.1
LEGEND_CLASSES = 30


@dataclass(frozen=True)
class Sample:
    """One sample after the pipeline."""

    title: str
    image: np.ndarray  # (C, H, W) in model units
    valid: np.ndarray  # (H, W) bool
    mask: np.ndarray | None  # (H, W) labels
    path: str = ""


def choose_bands(
    wanted: Sequence[str] | None, names: Sequence[str | int] | None, count: int
) -> tuple[int, int, int]:
    """Return the 0-based indexes of the bands to show as red, green and blue.

    Args:
        wanted: One or three band names or 1-based indexes; None chooses by name.
        names: Names of the bands.
        count: Number of bands.

    Raises:
        ConfigError: If a band is unknown.
    """
    if wanted is None:
        return choose_rgb(names, count)
    known = [str(name).casefold() for name in names or ()]
    chosen = []
    for band in wanted:
        if band.casefold() in known:
            chosen.append(known.index(band.casefold()))
        elif band.isdigit() and 1 <= int(band) <= count:
            chosen.append(int(band) - 1)
        else:
            raise ConfigError(
                f"--bands {' '.join(wanted)}: no band {band}",
                expected=f"1 to {count}" + (f", or {', '.join(map(str, names))}" if names else ""),
                found=band,
                remedy="correct --bands",
            )
    if len(chosen) not in (1, 3):
        raise ConfigError(
            f"--bands {' '.join(wanted)}",
            expected="three bands (red, green, blue) or one",
            found=len(chosen),
            remedy="correct --bands",
        )
    return tuple(chosen * 3) if len(chosen) == 1 else tuple(chosen)


def stretch(
    images: Sequence[np.ndarray], valid: Sequence[np.ndarray], bands: tuple[int, int, int]
) -> list[np.ndarray]:
    """Stretch images to (H, W, 3) uint8 with common limits.

    Args:
        images: (C, H, W) each.
        valid: (H, W) bool each; invalid pixels become white and are left out of the limits.
        bands: Indexes of red, green and blue.
    """
    # All images as one row of pixels, so that they share their limits.
    flat = [np.asarray(image)[list(bands)].reshape(3, 1, -1) for image in images]
    known = np.concatenate([mask.reshape(1, -1) for mask in valid], axis=1)
    row = stretch_to_rgb(np.concatenate(flat, axis=2), None, known, (2, 98), gamma=1.0)[0]
    ends = np.cumsum([mask.size for mask in valid])[:-1]
    pixels = np.split(row, ends)
    return [part.reshape(*mask.shape, 3) for part, mask in zip(pixels, valid, strict=True)]


def overlay(picture: np.ndarray, mask: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Blend a mask (H, W) over a picture (H, W, 3) uint8; ignored pixels become stripes."""
    mixed = 0.45 * picture + 0.55 * render_labels(mask, palette)
    rows, columns = np.indices(mask.shape)
    width = max(2, min(mask.shape) // 32)
    stripes = (rows + columns) // width % 2 == 0
    ignored = (mask < 0) | (mask >= len(palette))
    mixed[ignored] = np.where(stripes[ignored, None], 255.0, 0.5 * picture[ignored])
    return mixed.astype(np.uint8)


def collect(dataset: Any, num: int, seed: int) -> list[Sample]:
    """Run ``num`` evenly spaced samples through the pipeline.

    Args:
        dataset: MMEngine dataset that packs ``inputs`` and ``data_samples``.
        num: Number of samples.
        seed: Seed of the augmentations.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the transforms use the global generator
    torch.manual_seed(seed)
    classes = dataset.metainfo.get("classes", ())
    samples = []
    indexes = sorted({int(index) for index in np.linspace(0, len(dataset) - 1, num)})
    for index in tqdm(indexes, desc="loading", disable=None, leave=False):
        packed = dataset[index]
        image, data_sample = np.asarray(packed["inputs"]), packed["data_samples"]
        truth = getattr(data_sample, "gt_sem_seg", None)
        valid = getattr(data_sample, "valid_mask", None)
        path = str(data_sample.metainfo.get("img_path", index))
        title = Path(path).name
        label = getattr(data_sample, "gt_label", None)
        if label is not None:
            name = classes[label] if 0 <= label < len(classes) else f"label {label}"
            title = f"{name}\n{title}"
        samples.append(
            Sample(
                title,
                image,
                np.ones(image.shape[1:], dtype=bool)
                if valid is None
                else np.asarray(valid.data)[0].astype(bool),
                None if truth is None else np.asarray(truth.data)[0],
                path,
            )
        )
    return samples


def draw_sheet(
    samples: Sequence[Sample], meta: dict[str, Any], bands: tuple[int, int, int], heading: str
) -> np.ndarray:
    """Draw a contact sheet, (H, W, 3) uint8.

    Args:
        samples: Samples to show.
        meta: Dataset meta with classes and palette.
        bands: Indexes of red, green and blue.
        heading: Title of the sheet.
    """
    pictures = stretch([s.image for s in samples], [s.valid for s in samples], bands)
    panels = []
    for sample, picture in zip(samples, pictures, strict=True):
        panels.append((sample.title, picture))
        if sample.mask is not None:
            panels.append(("mask", overlay(picture, sample.mask, _palette(meta))))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with_masks = any(sample.mask is not None for sample in samples)
    legend = _legend(samples, meta) if with_masks else []
    height = rows * (CELL_INCHES + 0.35) + 0.4 + 0.25 * -(-len(legend) // columns)
    figure = Figure(
        figsize=(max(columns * CELL_INCHES, 4.5), height), dpi=110, layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (title, picture) in zip(grid, panels, strict=False):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(_shorten(title), fontsize=7)
    figure.suptitle(heading, fontsize=9)
    if legend:
        place = dict(loc="outside lower center", ncols=columns)
        figure.legend(handles=legend, fontsize=7, frameon=False, **place)
    return figure_to_rgb(figure)


def _palette(meta: dict[str, Any]) -> Sequence[Sequence[int]]:
    return meta.get("palette") or distinct_palette(len(meta["classes"]))


def _legend(samples: Sequence[Sample], meta: dict[str, Any]) -> list[Patch]:
    patches = [
        Patch(facecolor=np.divide(colour, 255), edgecolor="0.4", label=str(name))
        for name, colour in zip(meta["classes"], _palette(meta), strict=True)
    ][:LEGEND_CLASSES]
    count = len(meta["classes"])
    if any(sample.mask is not None and (sample.mask >= count).any() for sample in samples):
        patches.append(Patch(facecolor="white", edgecolor="0.4", hatch="////", label="ignored"))
    return patches


def _shorten(title: str, length: int = 34) -> str:
    lines = title.split("\n")
    return "\n".join(
        line if len(line) <= length else f"{line[:14]}...{line[-17:]}" for line in lines
    )


def browse(
    config: str | Path,
    split: str = "train",
    num: int = 24,
    out_dir: str | Path | None = None,
    bands: Sequence[str] | None = None,
    seed: int = 0,
    options: dict[str, Any] | None = None,
) -> list[Path]:
    """Write contact sheets of a config's dataset and return their paths.

    Args:
        config: Config file.
        split: ``'train'``, ``'val'`` or ``'test'``.
        num: Number of samples.
        out_dir: Folder for the sheets; default ``work_dirs/browse/<config>``.
        bands: Bands to show, see :func:`choose_bands`.
        seed: Seed of the augmentations.
        options: Overrides of the config.

    Raises:
        ConfigError: If the config lacks the split, or a band is unknown.
        DataError: If the data are missing or damaged.
    """
    if num < 1:
        raise ConfigError("--num", expected="1 or more", found=num, remedy="correct --num")
    cfg = load_config(config, options, needs_model=False)
    dataset = build_dataset(cfg, split)
    meta = dataset.metainfo
    samples = collect(dataset, num, seed)
    chosen = choose_bands(bands, meta.get("bands"), samples[0].image.shape[0])
    shown = "/".join(str((meta.get("bands") or range(1, 99))[band]) for band in chosen)
    values = np.concatenate([sample.image[:, sample.valid].ravel() for sample in samples])
    extent = f"values {values.min():.4g} to {values.max():.4g}" if values.size else "no valid pixel"
    per_sheet = ROWS * COLUMNS // (1 if samples[0].mask is None else 2)
    out_dir = Path(out_dir or Path("work_dirs") / "browse" / Path(config).stem)
    make_folder(out_dir, "--out-dir")
    paths = []
    for start in range(0, len(samples), per_sheet):
        heading = (
            f"{split}: {len(dataset)} samples, {len(meta['classes'])} classes, bands {shown}, "
            f"{'x'.join(map(str, samples[start].image.shape))} px, {extent}"
        )
        sheet = draw_sheet(samples[start : start + per_sheet], meta, chosen, heading)
        paths.append(out_dir / f"{split}_{start // per_sheet + 1:03d}.png")
        save_png(paths[-1], sheet, inputs=[config, *(sample.path for sample in samples)])
    return paths


@reports_errors
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("--split", choices=SPLITS, default="train", help="split to draw (train)")
    parser.add_argument("--num", type=int, default=24, help="number of samples (24)")
    parser.add_argument("--out-dir", help="folder for the PNGs (work_dirs/browse/<config>)")
    parser.add_argument(
        "--bands", nargs="+", metavar="BAND", help="three bands or one: names, or indexes from 1"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the augmentations (0)")
    add_config_options(parser)
    args = parser.parse_args(arguments)
    chosen = args.split, args.num, args.out_dir, args.bands, args.seed, args.cfg_options
    for path in browse(args.config, *chosen):
        print(path)


if __name__ == "__main__":
    main()
