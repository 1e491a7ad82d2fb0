r"""Code scenes and decode them again: what is kept, in how many bytes, and with what errors.

Each scene is coded by an autoencoder with as many bands, as ``hook encode`` and ``hook decode`` do
it (bands are those of the model by name, else all of them):

    python tools/analysis_tools/scene_codes.py CONFIG CHECKPOINT scene.tif \
        CONFIG CHECKPOINT other.tif --out work_dirs/scene_codes

Other bands of a scene are chosen by a virtual raster (``gdal_translate -of VRT -b 3 -b 2 -b 1``).
``table.md`` and ``report.json`` have three tables:

- what the decoded file has in common with the scene: size, CRS, transform, type, nodata value,
  names of bands and valid pixels. A cell has both values where they differ;
- bytes of the codes and of the packed codes (``--entropy``), beside those of the same bands as a
  Cloud-Optimised GeoTIFF with deflate and as a lossless JPEG 2000;
- RMSE and PSNR of each band, measured over the valid pixels of the two files, of the codes and of
  JPEG 2000 in at most as many bytes. JPEG 2000 has no validity: invalid pixels are filled with the
  mean of the band, and nothing is counted for a mask. Floating point is scaled to 16 bits for it.

For each scene there is a picture of the whole, and one of the windows with the median and the
largest error: original, decoded, error.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from tqdm import tqdm

from hook.apis import decode, encode, load_model
from hook.engine.configs import make_folder
from hook.engine.profiling import command_line, device_name, write_json
from hook.errors import reports_errors
from hook.evaluation.rates import IMAGE_CODECS
from hook.geo.bands import image_bands
from hook.geo.raster import open_raster, parse_nodata, quiet, quiet_open, read_valid
from hook.geo.staging import atomic_write
from hook.inference.scenes import choose_bands
from hook.visualization.drawing import stretch_limits, stretch_to_rgb
from hook.visualization.overview import Panel, draw_overview

WINDOW = 256  # pixels of a side of a window in the picture of details
WIDEST = 1000  # pixels of a side of the picture of the whole
ERROR_WHITE = 1.0  # error in standard deviations of the band that is white in pictures
JPEG2000 = IMAGE_CODECS["jpeg2000"]
Table = list[dict[str, Any]]


class Scene:
    """A file in memory.

    Attributes:
        values: (C, H, W).
        valid: (H, W) bool.
        facts: What a decoded file keeps, as text.
    """

    def __init__(self, path: Path, indexes: Sequence[int] | None, nodata: Any = None) -> None:
        with open_raster(path) as source:
            indexes = list(indexes or image_bands(source))
            self.values = source.read(indexes)
            self.valid = read_valid(source, indexes, self.values, nodata=parse_nodata(nodata))
            self.profile = dict(crs=source.crs, transform=source.transform, nodata=source.nodata)
            names = [source.descriptions[index - 1] or "-" for index in indexes]
            self.facts = {
                "size": f"{source.height} x {source.width}",
                "CRS": source.crs.to_string() if source.crs else "none",
                "transform": " ".join(f"{number:.10g}" for number in source.transform[:6]),
                "type": ", ".join(sorted({source.dtypes[index - 1] for index in indexes})),
                "nodata": str(source.nodata),
                "bands": ", ".join(names) if set(names) != {"-"} else f"{len(names)} without names",
            }

    def rmse(self, values: np.ndarray) -> np.ndarray:
        """Return the root mean square error of each band of other values, (C,)."""
        pairs = zip(self.values, values, strict=True)
        errors = (a[self.valid].astype(np.float64) - b[self.valid] for a, b in pairs)
        return np.array([np.sqrt(np.square(error).mean()) for error in errors])


def same_or_both(before: Scene, after: Scene) -> dict[str, str]:
    """Return what a decoded scene kept, and both values of what it did not."""
    pairs = ((name, one, after.facts[name]) for name, one in before.facts.items())
    row = {name: one if one == other else f"{one} -> {other}" for name, one, other in pairs}
    differ = int((before.valid != after.valid).sum())
    share = f"{100 * before.valid.mean():.2f} %"
    return row | {"valid pixels": share + (f", {differ} differ" if differ else "")}


# ------------------------------------------------------------------------------ other codecs
def lossless_sizes(scene: Scene, folder: Path) -> dict[str, int | None]:
    """Return the bytes of the bands as a tiled GeoTIFF with deflate, and as JPEG 2000."""
    bands, height, width = scene.values.shape
    dtype, path = scene.values.dtype, folder / "deflate.tif"
    profile = dict(driver="GTiff", count=bands, height=height, width=width, dtype=dtype)
    profile |= dict(tiled=True, blockxsize=512, blockysize=512, compress="deflate", zlevel=9)
    profile |= dict(predictor=3 if dtype.kind == "f" else 2, **scene.profile)
    with quiet_open(path, "w", **profile) as target:
        target.write(scene.values)
    sizes = {"deflate": path.stat().st_size, "lossless JPEG 2000": None}
    if JPEG2000.takes(scene.values):
        options = dict(driver="JP2OpenJPEG", QUALITY=100, REVERSIBLE="YES")
        with quiet():
            rasterio.shutil.copy(path, folder / "lossless.jp2", **options)
        sizes["lossless JPEG 2000"] = (folder / "lossless.jp2").stat().st_size
    return sizes


def jpeg2000_errors(scene: Scene, size: int) -> np.ndarray | None:
    """Return the RMSE of each band of JPEG 2000 in at most ``size`` bytes; None if it cannot."""
    values = scene.values.copy()
    for band in values:
        band[~scene.valid] = band[scene.valid].mean(dtype=np.float64)
    low, step = 0.0, 1.0
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        step = (high - low) / np.iinfo(np.uint16).max or 1.0
        values = np.rint((values - low) / step).astype(np.uint16)
    found = JPEG2000.takes(values) and JPEG2000.within(values, size)
    return scene.rmse(JPEG2000.decode(found[0]) * step + low) if found else None


# ------------------------------------------------------------------------------ one scene
def run(
    model: Any, path: Path, name: str, folder: Path, args: argparse.Namespace
) -> tuple[dict[str, str], dict[str, Any], Table]:
    """Code and decode a scene, draw it, and return its rows of the three tables."""
    indexes = choose_bands(model, str(path), None)
    files = {kind: folder / f"{name}.{kind}" for kind in ("codes.tif", "hkc", "decoded.tif")}
    options = dict(threads=args.threads, overwrite=True)
    report = encode(model, path, files["codes.tif"], bidx=indexes, **options)
    encode(model, path, files["hkc"], bidx=indexes, entropy=True, errors=False, **options)
    decode(files["codes.tif"], files["decoded.tif"], model=model, **options)
    nodata = model.dataset_meta.get("nodata")
    before, after = Scene(path, indexes, nodata), Scene(files["decoded.tif"], None, nodata)
    sizes = {"codes": files["codes.tif"].stat().st_size, "packed": files["hkc"].stat().st_size}
    peers = {kind: jpeg2000_errors(before, size) for kind, size in sizes.items()}
    kinds = {"codes": before.rmse(after.values)}
    kinds |= {f"JPEG 2000, bytes of {kind}": errors for kind, errors in peers.items()}
    rows: Table = [
        {"scene": name, "band": band, "peak": peak}
        for band, peak in zip(report.bands, report.peak, strict=True)
    ]
    for kind, errors in kinds.items():
        for row, error in zip(rows, [None] * len(rows) if errors is None else errors, strict=True):
            row[f"RMSE {kind}"] = None if error is None else float(error)
            row[f"PSNR {kind}"] = None if not error else 20 * float(np.log10(row["peak"] / error))
    with TemporaryDirectory() as temporary:
        lossless = lossless_sizes(before, Path(temporary))
    bits = {f"{kind}, bits per pixel": 8 * size / before.valid.size for kind, size in sizes.items()}
    draw(folder / name, before, after, report.bands)
    return same_or_both(before, after), {**lossless, **sizes, **bits}, rows


def draw(path: Path, before: Scene, after: Scene, bands: Sequence[str]) -> None:
    """Draw original, decoded and error of the whole, and of two windows."""
    from PIL import Image

    limits = stretch_limits(before.values, bands, before.valid)
    spread = np.array([band[before.valid].std(dtype=np.float64) or 1 for band in before.values])
    error = np.zeros(before.valid.shape, np.float32)
    for one, other, unit in zip(before.values, after.values, spread, strict=True):
        error += np.abs(one.astype(np.float32) - other) / np.float32(unit * len(spread))
    error[~before.valid] = 0

    def panels(part: tuple, note: str) -> list[Panel]:
        valid = before.valid[part]
        pictures = [
            stretch_to_rgb(scene.values[:, *part], bands, valid, limits=limits)
            for scene in (before, after)
        ]
        grey = (255 * error[part] / ERROR_WHITE).clip(0, 255).astype(np.uint8)
        pictures.append(np.repeat(grey[..., None], 3, axis=2))
        factor = -(-max(valid.shape) // WIDEST)
        pictures = [np.asarray(Image.fromarray(one).reduce(factor)) for one in pictures]
        titles = zip(("original", "decoded", "error"), pictures, (note, "", ""), strict=True)
        return [Panel(*panel) for panel in titles]

    notes = dict(title=path.name, dpi=80, columns=3)
    notes["subtitle"] = f"error: white is {ERROR_WHITE:g} standard deviation, mean over the bands"
    draw_overview(f"{path}.png", panels(np.s_[:, :], ""), **notes)
    height, width = error.shape
    windows = [
        np.s_[top : top + WINDOW, left : left + WINDOW]
        for top in range(0, height - WINDOW + 1, WINDOW)
        for left in range(0, width - WINDOW + 1, WINDOW)
    ]
    windows = [one for one in windows if before.valid[one].mean() > 0.5]
    if windows:
        windows.sort(key=lambda one: error[one].sum() / before.valid[one].sum())
        chosen = [(windows[len(windows) // 2], "median error"), (windows[-1], "largest error")]
        parts = [panel for part, note in chosen for panel in panels(part, note)]
        draw_overview(f"{path}_details.png", parts, **notes)


# ------------------------------------------------------------------------------ command
def to_markdown(rows: Table) -> str:
    """Return a table of rows of one kind."""
    lines = ["| " + " | ".join(rows[0]) + " |", "| --- " * len(rows[0]) + "|"]
    lines += ["| " + " | ".join(map(_cell, row.values())) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="CONFIG CHECKPOINT SCENE", help="codec, scene")
    parser.add_argument("--names", nargs="+", help="of the scenes (default: of their files)")
    parser.add_argument("--out", default="work_dirs/scene_codes", help="output folder")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    args = parser.parse_args()
    if len(args.runs) % 3:
        parser.error("give CONFIG, CHECKPOINT and SCENE for each scene")
    args.names = args.names or [Path(scene).stem for scene in args.runs[2::3]]
    if len(set(args.names)) < len(args.runs) // 3:
        parser.error(f"--names: give {len(args.runs) // 3} different names")
    return args


@reports_errors
def main() -> None:
    args = parse_args()
    folder = make_folder(args.out, "--out")
    tables: dict[str, Table] = {"kept": [], "bytes": [], "errors": []}
    runs = zip(args.names, args.runs[::3], args.runs[1::3], args.runs[2::3], strict=True)
    for name, config, checkpoint, path in tqdm(list(runs), unit="scene", disable=None):
        model = load_model((config, checkpoint), device=args.device)
        kept, sizes, errors = run(model, Path(path), name, folder, args)
        tables["kept"].append({"scene": name, **kept})
        tables["bytes"].append({"scene": name, **sizes})
        tables["errors"] += errors
    head = {"command": command_line(sys.argv), "device": device_name(args.device)}
    write_json(folder / "report.json", head | tables)
    text = "\n".join(map(to_markdown, tables.values()))
    with atomic_write(folder / "table.md") as partial:
        partial.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
