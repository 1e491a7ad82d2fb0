r"""Draw a scene and its class map side by side, with legend and scale bar, as a PNG.

Class names and colours are read from the map. ``--outlines`` draws polygons, such as reference
data, over both; ``--bounds`` crops.

    python tools/analysis_tools/draw_map.py scene.tif map.tif gallery.png \
        --outlines buildings.gpkg --attribution "Imagery: ..."
"""

import argparse
from pathlib import Path

import numpy as np
import rasterio
from rasterio import features
from rasterio.enums import Resampling
from rasterio.transform import array_bounds
from rasterio.windows import Window, from_bounds, intersect

from hook.engine.configs import make_folder
from hook.errors import ConfigError, DataError, reports_errors
from hook.geo.bands import image_bands
from hook.geo.measure import metres_per_pixel
from hook.geo.raster import Validity, open_raster, read_valid, warped
from hook.geo.staging import check_output
from hook.geo.styles import distinct_palette
from hook.geo.vector import read_vectors, reproject
from hook.scenes.statistics import ClassMap
from hook.visualization.drawing import region_borders, render_labels, stretch_to_rgb
from hook.visualization.overview import Panel, draw_overview

OUTLINE = (255, 230, 60)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scene", help="raster that was mapped")
    parser.add_argument("map", help="class map, such as from hook map")
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--outlines", metavar="FILE", help="polygons to draw over both")
    parser.add_argument(
        "--bounds",
        type=float,
        nargs=4,
        metavar=("WEST", "SOUTH", "EAST", "NORTH"),
        help="extent to show, in the CRS of the scene",
    )
    parser.add_argument(
        "--side", type=int, default=1200, help="longer side of each panel (default 1200 pixels)"
    )
    parser.add_argument(
        "--alpha", type=float, default=0.55, help="opacity of the map over the scene (default 0.55)"
    )
    parser.add_argument("--title", default="", help="title of the figure")
    parser.add_argument("--attribution", default="", help="source of the imagery")
    return parser.parse_args()


def read_scene(path: str, bounds: list[float] | None, side: int) -> tuple[np.ndarray, dict]:
    """Read a scene, resampled to a picture.

    Args:
        path: The scene.
        bounds: Extent to read (west, south, east, north); None reads all.
        side: Longer side of the picture in pixels.

    Returns:
        (H, W, 3) uint8, and its grid: ``crs``, ``transform``, ``height``, ``width``.

    Raises:
        DataError: If the file cannot be read, or the bounds are outside it.
    """
    with open_raster(path) as source:
        window = Window(0, 0, source.width, source.height)
        if bounds is not None:
            asked = from_bounds(*bounds, transform=source.transform)
            if asked.width <= 0 or asked.height <= 0 or not intersect([asked, window]):
                raise DataError(
                    f"--bounds are outside {path}",
                    expected=f"an extent within {tuple(round(v, 6) for v in source.bounds)}",
                    found=tuple(bounds),
                )
            window = asked.intersection(window)
        factor = max(window.height, window.width) / side
        size = [max(1, round(length / max(factor, 1))) for length in (window.height, window.width)]
        transform = source.window_transform(window) @ rasterio.Affine.scale(
            window.width / size[1], window.height / size[0]
        )
        indexes = image_bands(source)
        options = dict(window=window, out_shape=(len(indexes), *size))
        image = source.read(indexes, **options, resampling=Resampling.average)
        valid = Validity(source, indexes).read(image, **options).any(axis=0)
        names = [source.descriptions[index - 1] for index in indexes]
        picture = stretch_to_rgb(image, names, valid)
        return picture, dict(crs=source.crs, transform=transform, height=size[0], width=size[1])


def read_map(path: str, grid: dict) -> tuple[np.ndarray, list[str], list[tuple[int, ...]]]:
    """Read a map on the grid of a picture.

    Returns:
        (H, W) int64 classes, -1 for nodata; names and colours of all classes.

    Raises:
        DataError: If the map cannot be read.
        SceneError: If it is not a class map.
    """
    with ClassMap(path) as source:
        colours, nodata = source.read_colours() or {}, source.nodata
        names = source.class_names
    with (
        open_raster(path) as source,
        warped(source, nodata=nodata, resampling=Resampling.nearest, **grid) as view,
    ):
        values = view.read([1])
        known = read_valid(view, [1], values)
    classes = values[0].astype(np.int64)
    classes[~known] = -1
    if names is None:
        names = [f"class_{value}" for value in range(int(classes.max(initial=-1)) + 1)]
    palette = distinct_palette(len(names))
    return classes, names, [colours.get(k, palette[k]) for k in range(len(names))]


def draw_outlines(picture: np.ndarray, path: str, grid: dict) -> np.ndarray:
    """Draw the outlines of polygons over a picture.

    Raises:
        DataError: If the file cannot be read, or its polygons have no CRS.
    """
    table = read_vectors(path)
    if grid["crs"] is not None and table.crs is None:
        raise DataError(f"{path} cannot be drawn", expected="polygons with a CRS", found="none")
    shapes = table.geometry.to_numpy()
    if grid["crs"] is not None:
        bounds = array_bounds(grid["height"], grid["width"], grid["transform"])
        shapes = reproject(shapes, table.crs, grid["crs"], bounds, what=path)
    shapes = [(shape, number) for number, shape in enumerate(shapes, 1) if shape]
    if not shapes:
        return picture
    burnt = features.rasterize(
        shapes,
        out_shape=(grid["height"], grid["width"]),
        transform=grid["transform"],
        dtype="int32",
    )
    drawn = picture.copy()
    drawn[region_borders(burnt)] = OUTLINE
    return drawn


@reports_errors
def main() -> None:
    args = parse_args()
    if args.out.suffix.lower() != ".png":
        raise ConfigError(f"{args.out}", expected="a name ending in .png")
    if args.side < 16 or not 0 < args.alpha <= 1:
        raise ConfigError("--side and --alpha", expected="at least 16, and above 0 and at most 1")
    make_folder(args.out.parent, "the output folder")
    check_output(args.out, (args.scene, args.map, args.outlines), ConfigError)
    picture, grid = read_scene(args.scene, args.bounds, args.side)
    classes, names, colours = read_map(args.map, grid)
    painted = render_labels(classes, colours).astype(np.float32)
    known = (classes >= 0)[..., np.newaxis]
    mixed = np.where(known, args.alpha * painted + (1 - args.alpha) * picture, picture)
    pictures = {"Scene": picture, "Map": np.rint(mixed).astype(np.uint8)}
    if args.outlines:
        pictures = {k: draw_outlines(v, args.outlines, grid) for k, v in pictures.items()}
        names, colours = [*names, "outlines"], [*colours, OUTLINE]
    centre = rasterio.Affine.translation(grid["width"] / 2, grid["height"] / 2)
    metres = metres_per_pixel(1, 1, grid["transform"] @ centre, grid["crs"])
    draw_overview(
        args.out,
        [Panel(title, of) for title, of in pictures.items()],
        names,
        colours,
        metres,
        title=args.title,
        attribution=args.attribution,
        dpi=100,
    )
    print(args.out)


if __name__ == "__main__":
    main()
