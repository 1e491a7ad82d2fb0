"""Pictures of scenes and maps in their coordinates.

Scenes are read at the size of the picture, from overviews if available. Polygons of the same CRS
can be drawn over them: ``regions.plot(ax=show_scene("scene.tif"))``.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rasterio
from pyproj import CRS
from rasterio.enums import Resampling
from rasterio.windows import Window, from_bounds
from rasterio.windows import transform as transform_of

from hook.arguments import bad_argument, check_int, is_int
from hook.errors import ConfigError, DataError
from hook.geo.arrays import Map, map_file, raster_files
from hook.geo.bands import image_bands, match_bands, resolve_bands
from hook.geo.measure import metres_per_unit
from hook.geo.raster import (
    Validity,
    open_dataset,
    read_valid,
    reading,
    warn_unused_georeference,
    warped,
)
from hook.geo.styles import distinct_palette
from hook.scenes.request import scene_files
from hook.scenes.statistics import ClassMap
from hook.visualization.drawing import choose_rgb, render_labels, stretch_limits, stretch_to_rgb
from hook.visualization.overview import INK, PAPER, scale_bar_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["show_map", "show_scene"]

_FIGURE = 8.0  # inches, the longer side
_STRETCHES = ("view", "scene")
_SAMPLE = 600


class _Overview(NamedTuple):
    """Raster at the size of the picture."""

    values: np.ndarray
    """(C, h, w)."""
    valid: np.ndarray
    """(h, w) bool."""
    extent: tuple[float, float, float, float]
    """Left, right, bottom, top in the CRS; in pixels without a CRS."""
    crs: CRS | None


def show_scene(
    scene: Any,
    axes: "Axes | None" = None,
    *,
    bands: Sequence[str | int] | None = None,
    bounds: Sequence[float] | None = None,
    stretch: str = "view",
    title: str | None = None,
    scale_bar: bool = True,
    pixels: int = 1200,
) -> "Axes":
    """Draw a scene in its coordinates.

    Args:
        scene: Any raster that GDAL opens, several of one area (the first on top), a DataArray, or
            an array (bands, rows, cols).
        axes: ``matplotlib.axes.Axes`` to draw into; None creates a figure.
        bands: Names or 1-based numbers of the bands to show as red, green and blue, or of one.
            None uses the bands of these names, else the first three, else the first.
        bounds: Left, bottom, right, top of the part to show, in the scene's CRS; None for all.
        stretch: Area of the contrast stretch: ``"view"``, the part shown, or ``"scene"``, the same
            for all parts. Without overviews the latter reads the whole scene.
        title: Title of the picture.
        scale_bar: Draw a scale bar, exact at the centre of the picture; not without a CRS.
        pixels: Maximum length of the picture's longer side.

    Returns:
        The axes, in coordinates of the scene's grid, or in pixels without a georeference or for a
        rotated grid without a CRS. The antimeridian is not handled.

    Raises:
        ConfigError: The bounds or a different option are invalid.
        DataError: The scene cannot be read, lacks a band, or is outside the bounds.

    Example:
        >>> axes = show_scene("scene.tif", bands=("nir", "red", "green"))
        >>> geopandas.read_file("parcels.gpkg").boundary.plot(ax=axes, color="white")
    """
    if stretch not in _STRETCHES:
        raise bad_argument("stretch", stretch, " or ".join(map(repr, _STRETCHES)))
    limits = None
    with raster_files(scene) as given:
        files = scene_files(given)
        with ExitStack() as stack:
            sources = [stack.enter_context(open_dataset(file)) for file in files]
            warn_unused_georeference(sources[0], files[0])
            indexes = _bands_to_show(sources[0], bands)
            options = (indexes, Resampling.average, files[0])
            found = _read(stack, sources, bounds, pixels, *options)
            if stretch == "scene" and bounds is not None:
                # A reduced scene is enough to estimate the percentiles.
                scene = _read(stack, sources, None, _SAMPLE, *options)
                limits = stretch_limits(scene.values, valid=scene.valid)
    picture = stretch_to_rgb(found.values, valid=found.valid, limits=limits)
    return _draw(picture, found, axes, title, scale_bar)


def show_map(
    map_path: Map,
    axes: "Axes | None" = None,
    *,
    bounds: Sequence[float] | None = None,
    title: str | None = None,
    legend: bool = True,
    scale_bar: bool = True,
    pixels: int = 1200,
) -> "Axes":
    """Draw a class map in its colours and coordinates.

    Args:
        map_path: The map: a file, the DataArray of :meth:`hook.apis.SceneMapper.map`, or class
            indexes (rows, cols) with nodata 255.
        axes: See :func:`show_scene`.
        bounds: See :func:`show_scene`.
        title: Title of the picture.
        legend: Show the classes of the picture in a legend below it.
        scale_bar: See :func:`show_scene`.
        pixels: Maximum length of the picture's longer side; larger maps are resized by nearest
            neighbour.

    Returns:
        The axes, see :func:`show_scene`.

    Raises:
        ConfigError: The bounds are invalid.
        DataError: The map is outside the bounds, or is damaged.
        SceneError: The map cannot be opened, or is not a class map.

    Example:
        >>> show_map(SceneMapper("model.safetensors").map("scene.tif"))
    """
    from matplotlib.patches import Patch

    with map_file(map_path) as (file, nodata), ExitStack() as stack:
        with ClassMap(file, nodata) as classes:
            names, colours = classes.class_names or [], classes.read_colours() or {}
        source = stack.enter_context(open_dataset(file))
        warn_unused_georeference(source, file)
        found = _read(stack, [source], bounds, pixels, [1], Resampling.nearest, file)
    values = found.values[0]
    drawn = found.valid if nodata is None else found.valid & (values != nodata)
    drawn = drawn & (values >= 0)
    present, labels = np.unique(values[drawn], return_inverse=True)
    present = present.tolist()
    # Colours of a class are the same in all maps of the same classes; their number is limited.
    spare = distinct_palette(min(max([len(names), *(v + 1 for v in present)]), 256))
    palette = [colours.get(value, spare[value % len(spare)]) for value in present]
    indexes = np.full(values.shape, -1)
    indexes[drawn] = labels
    picture = render_labels(indexes, palette, background=(255, 255, 255))
    axes = _draw(picture, found, axes, title, scale_bar, smooth=False)
    if legend and present:
        handles = [
            Patch(
                facecolor=np.array(colour) / 255,
                edgecolor="#8a949e",
                linewidth=0.6,
                label=(names[value] if value < len(names) else "") or f"class_{value}",
            )
            for value, colour in zip(present, palette, strict=True)
        ]
        axes.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            ncols=min(6, len(handles)),
            frameon=False,
            labelcolor=INK,
        )
    return axes


# ------------------------------------------------------------------------------ what is shown
def _bands_to_show(source: Any, bands: Sequence[str | int] | None) -> list[int]:
    """Return the 1-based indexes of one band or three."""
    colours = source.colorinterp
    if bands is None:
        indexes = image_bands(source)
        if not indexes:
            raise DataError(
                f"{source.name}: no band to show",
                expected="a band that is not transparency",
                found=f"{source.count} bands",
                remedy="name a raster of a file with several, such as NETCDF:FILE:VARIABLE",
            )
        names = [source.descriptions[k - 1] or colours[k - 1].name for k in indexes]
        chosen = choose_rgb(names, len(indexes))
        return [indexes[k] for k in dict.fromkeys(chosen)]
    if isinstance(bands, str) or is_int(bands):
        bands = [bands]
    if not isinstance(bands, Sequence | np.ndarray) or not all(
        isinstance(band, str) or is_int(band) for band in bands
    ):
        raise bad_argument("bands", bands, "names, or numbers from 1, of three bands or one")
    indexes = resolve_bands(source, list(bands), "bands")
    if len(indexes) not in (1, 3):
        raise ConfigError(
            "bands to show",
            expected="three, as red, green and blue, or one",
            found=len(indexes),
            remedy="name three bands, or one",
        )
    named = {str(name).casefold() for name in source.descriptions}
    named |= {colour.name for colour in colours}
    for band in bands:
        # A file without band names may get those of a model, but must not here.
        if isinstance(band, str) and band.casefold() not in named:
            raise DataError(
                f"{source.name}: no band named {band!r}",
                expected=", ".join(map(str, bands)),
                found=f"{source.count} bands without names",
                remedy="use their numbers, from 1",
            )
    return indexes


def _read(
    stack: ExitStack,
    sources: list,
    bounds: Sequence[float] | None,
    pixels: int,
    indexes: Sequence[int],
    resampling: Resampling,
    name: object,
) -> _Overview:
    """Read a part of one or several rasters at the size of the picture."""
    crs = sources[0].crs
    check_int("pixels", pixels)
    for source in sources:
        if source.count < max(indexes):
            raise DataError(
                f"{source.name}: no band {max(indexes)}",
                expected=f"the bands of {name}",
                found=f"{source.count} bands",
                remedy="show files with the same bands, or name bands that all have",
            )
    if len(sources) > 1 and any(source.crs is None for source in sources):
        raise DataError(
            "several files cannot be shown together without a CRS",
            expected="a CRS in each of several files",
            found=f"none in {next(source.name for source in sources if source.crs is None)}",
            remedy="show them one by one, or set their CRS (rio edit-info --crs)",
        )
    with reading(name):
        if len(sources) == 1:
            (source,) = sources
            if not _needs_no_warp(source):
                source = stack.enter_context(warped(source, crs, resampling=resampling))
            box = _box([source], bounds, name)
            values, valid, extent = _read_one(source, indexes, box, pixels, resampling)
        else:
            values, valid, extent = _read_several(sources, indexes, bounds, pixels, resampling)
    georeferenced = crs is not None and (len(sources) > 1 or _is_georeferenced(sources[0]))
    return _Overview(values, valid, extent, CRS.from_user_input(crs) if georeferenced else None)


def _read_several(
    sources: list,
    indexes: Sequence[int],
    bounds: Sequence[float] | None,
    pixels: int,
    resampling: Resampling,
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float, float]]:
    """Mosaic rasters, the first on top; return values, validity and extent."""
    crs = sources[0].crs
    with ExitStack() as stack:
        upright = [
            source
            if source.crs == crs and _needs_no_warp(source)
            else stack.enter_context(warped(source, crs, resampling=resampling))
            for source in sources
        ]
        left, bottom, right, top = _box(upright, bounds, "the scene")
        grid = upright[0].transform
        longer = max((right - left) / grid.a, (top - bottom) / -grid.e)
        step = max(1.0, longer / pixels)
        across, down = step * grid.a, -step * grid.e
        width = max(1, math.ceil((right - left) / across - 1e-6))
        height = max(1, math.ceil((top - bottom) / down - 1e-6))
    grid = rasterio.Affine(across, 0, left, 0, -down, top)
    values = valid = None
    for source in sources:
        options = dict(transform=grid, width=width, height=height)
        bands, _ = match_bands(sources[0], indexes, source)
        with warped(source, crs, resampling=resampling, **options) as view:
            other = view.read(bands)
            other_valid = read_valid(view, bands, other)
        if values is None:
            values, valid = other, other_valid
            continue
        new = other_valid & ~valid
        values = values.astype(np.result_type(values, other), copy=False)
        values[:, new] = other[:, new]
        valid |= other_valid
    return values, valid, (left, left + width * across, top - height * down, top)


def _is_georeferenced(source: Any) -> bool:
    return not source.transform.is_identity


def _is_north_up(source: Any) -> bool:
    grid = source.transform
    return grid.b == grid.d == 0 and grid.a > 0 > grid.e


def _needs_no_warp(source: Any) -> bool:
    """Return whether a raster's grid can be drawn along x and y."""
    return _is_north_up(source) or source.crs is None or not _is_georeferenced(source)


def _counts_pixels(source: Any) -> bool:
    """Return whether the axes count pixels, rows downwards."""
    return not (_is_georeferenced(source) and _is_north_up(source))


def _box(
    sources: list, bounds: Sequence[float] | None, name: object
) -> tuple[float, float, float, float]:
    """Return left, bottom, right and top of the part to show."""
    first = sources[0]
    if _counts_pixels(first):
        full = (0.0, 0.0, float(first.width), float(first.height))
    else:
        sides = list(zip(*(source.bounds for source in sources), strict=True))
        full = (min(sides[0]), min(sides[1]), max(sides[2]), max(sides[3]))
    if bounds is None:
        return full
    try:
        box = tuple(float(side) for side in bounds)
    except (TypeError, ValueError):
        box = ()
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise ConfigError(
            "the bounds are not a box",
            expected="left, bottom, right, top",
            found=box or repr(bounds)[:80],
            remedy="use four numbers in the scene's CRS, such as total_bounds of a GeoDataFrame",
        )
    inside = zip(box, full, (max, max, min, min), strict=True)
    clipped = tuple(pick(side, limit) for side, limit, pick in inside)
    if not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
        raise DataError(
            f"{name} has nothing inside the bounds",
            expected=f"a part of {', '.join(f'{side:.10g}' for side in full)}",
            found=", ".join(f"{side:.10g}" for side in box),
            remedy="use left, bottom, right, top in the scene's CRS",
        )
    return clipped


def _read_one(
    source: Any,
    indexes: Sequence[int],
    box: tuple[float, float, float, float],
    pixels: int,
    resampling: Resampling,
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float, float]]:
    """Read full pixels of one raster; return values, validity and extent."""
    if _counts_pixels(source):
        left, bottom, right, top = box  # rows increase with y
        rows, columns = (bottom, top), (left, right)
    else:
        part = from_bounds(*box, source.transform)
        rows = (part.row_off, part.row_off + part.height)
        columns = (part.col_off, part.col_off + part.width)
    (top, bottom), (left, right) = (
        (
            min(max(math.floor(first + 1e-6), 0), size - 1),
            max(min(math.ceil(last - 1e-6), size), 1),
        )
        for (first, last), size in ((rows, source.height), (columns, source.width))
    )
    bottom, right = max(bottom, top + 1), max(right, left + 1)
    window = Window(left, top, right - left, bottom - top)
    step = max(1.0, max(window.height, window.width) / pixels)
    shape = tuple(max(1, round(side / step)) for side in (window.height, window.width))
    indexes = list(indexes)
    options = dict(window=window, out_shape=(len(indexes), *shape))
    values = source.read(indexes, resampling=resampling, **options)
    valid = Validity(source, indexes).read(values, **options).all(axis=0)
    if _counts_pixels(source):
        return values, valid, (left, right, bottom, top)
    grid = transform_of(window, source.transform)
    extent = (grid.c, grid.c + grid.a * window.width, grid.f + grid.e * window.height, grid.f)
    return values, valid, extent


# ------------------------------------------------------------------------------ how it is shown
def _draw(
    picture: np.ndarray,
    found: _Overview,
    axes: "Axes | None",
    title: str | None,
    scale_bar: bool,
    smooth: bool = True,
) -> "Axes":
    if axes is not None and not hasattr(axes, "imshow"):
        raise bad_argument("axes", axes, "matplotlib axes, such as plt.gca(), or None")
    left, right, bottom, top = found.extent
    middle = (bottom + top) / 2
    degrees = found.crs is not None and found.crs.is_geographic
    aspect = 1 / max(math.cos(math.radians(middle)), 0.01) if degrees else 1.0
    if axes is None:
        from matplotlib import pyplot

        wide, tall = abs(right - left), abs(top - bottom) * aspect
        inches = _FIGURE / max(wide, tall)
        size = (max(wide * inches, 2.5), max(tall * inches, 2) + 0.4)
        _, axes = pyplot.subplots(figsize=size, layout="constrained")
    axes.imshow(
        picture,
        extent=found.extent,
        aspect=aspect,
        interpolation="antialiased" if smooth else "nearest",
    )
    axes.set_axis_off()
    if title:
        axes.set_title(title)
    # Measured at the centre of the picture, along 1/1000 of its width.
    centre = ((left + right) / 2, middle, (right - left) / 2000)
    metres = metres_per_unit(found.crs, *centre) if scale_bar and found.crs else None
    if metres:
        _add_scale_bar(axes, (right - left) * metres, metres)
    return axes


def _add_scale_bar(axes: "Axes", width: float, metres_per_unit: float) -> None:
    """Add a scale bar of a round length in the lower left corner."""
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    metres = scale_bar_length(width)
    bar = AnchoredSizeBar(
        axes.transData,
        metres / metres_per_unit,
        f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m",
        "lower left",
        label_top=True,
        color=PAPER,
        size_vertical=0,
        frameon=True,
        borderpad=0.5,
        pad=0.35,
        sep=3,
    )
    bar.patch.set(facecolor=INK, alpha=0.6, edgecolor="none")
    axes.add_artist(bar)
