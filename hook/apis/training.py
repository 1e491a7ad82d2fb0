"""Train a segmentation model on GeoTIFFs and labels."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas

from hook.arguments import bad_argument, check_int, check_path
from hook.datasets.files import list_files
from hook.datasets.holdout import check_share, hold_out
from hook.datasets.inspection import Colour, inspect_files
from hook.engine.configs import find_config, load_config, setup_environment
from hook.engine.devices import check_device
from hook.engine.fitting import (
    check_base,
    fit_data,
    fit_run,
    fit_schedule,
    fit_sizes,
    measure,
    set_statistics,
)
from hook.engine.models import use_default_scope
from hook.engine.training import TrainingResult, prepare_work_dir, train_config
from hook.errors import ConfigError, DataError
from hook.geo.arrays import check_array, is_array, write_array
from hook.geo.raster import RASTER_SUFFIXES, open_raster
from hook.geo.staging import StagedFiles, check_output
from hook.zoo import find_model

DEFAULT_BASE = "hook-objects-small_vit-96x3_banepa-256"


def train(
    images: Any,
    labels: Any,
    work_dir: str | os.PathLike,
    *,
    label: str | None = None,
    layer: str | int | None = None,
    classes: Sequence[str] | Mapping[Any, str] | None = None,
    palette: Sequence[Colour] | Mapping[str, Colour] | None = None,
    background: str | None = None,
    base: str | os.PathLike = DEFAULT_BASE,
    num_tokens: int | None = None,
    chip_size: int = 256,
    epochs: int = 20,
    batch_size: int = 8,
    val_fraction: float = 0.2,
    val: Any = None,
    seed: int | None = 0,
    device: str | None = None,
    pretrained: str | os.PathLike | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    progress: bool = True,
    overwrite: bool = False,
    resume: bool = False,
) -> TrainingResult:
    """Train a segmentation model on GeoTIFFs and their labels.

    Bands, classes and colours are read from the files, statistics are computed on the training
    part, classes are weighted by the inverse square root of their frequency. The metrics are those
    of a held-out part, which is not used for any choice. Without a GPU a scene of 2,000 x 2,000
    pixels takes minutes.

    Args:
        images: Folder(s) or file(s) of images with the same bands, of any number and data type:
            GeoTIFFs, or PNG and JPEG files, which need no georeference; or
            ``xarray.DataArray``(s) (band, y, x) with CRS and grid.
        labels: Folder(s) or file(s) of masks (class per pixel, matched to images by name or
            position) or of polygons in any CRS and vector format; a GeoDataFrame of polygons, or
            masks as DataArrays (y, x) in the order of the images.
        work_dir: Folder for config, checkpoint, log and arrays; created if missing.
        label: Class attribute of the polygons. Without it all are of one class.
        layer: Layer of the files of polygons, by name or number from 0; or name the files
            ``FILE|layername=NAME``. Default: the first of polygons, with a warning if there are
            several.
        classes: Names in the order of the labels, or a name for each value of the masks or of
            ``label``; other values are ignored. Default: the names found.
        palette: ``(red, green, blue)`` or ``'#rrggbb'`` for each class, or by name. Default: the
            mask's colour table, else distinct colours.
        background: Class outside the polygons, or of a mask's nodata value. None: ignored there,
            except for polygons of one class: ``background``.
        base: Base config, by path or name: model, augmentation, schedule and first weights
            (``load_from``) of a segmentation trained by epochs.
        num_tokens: Tokens per chip; default: as many as the base has for the area.
        chip_size: Side of the training chips in pixels.
        epochs: Number of epochs; each draws as many chips as cover the images, and at least 16
            batches.
        batch_size: Chips per step.
        val_fraction: Fraction held out without ``val``: of several images the ones at one end of
            the region (without a georeference the last by name), of a single one a strip of it.
        val: Images to hold out, by name or a file with a list, or an area: a vector file, a table
            of polygons, or ``dict(bounds=(minx, miny, maxx, maxy), crs=...)``.
        seed: Random seed; None draws one.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``; default: a GPU if available.
        pretrained: Checkpoint or name of a model to start from instead; weights that do not fit
            are skipped.
        cfg_options: Dotted keys of the config to override, such as
            ``{"optim_wrapper.optimizer.lr": 1e-4}``.
        progress: Show a progress bar, or ten lines in a log.
        overwrite: Replace an earlier training in ``work_dir``.
        resume: Resume an interrupted training, with the same arguments.

    Returns:
        Files, metrics and curves.

    Raises:
        ConfigError: An argument cannot be used.
        DataError: The files are missing, contradict each other, or have fewer than two classes.
        CheckpointError: ``pretrained`` cannot be read, or none of its weights fits.

    Example:
        >>> result = train("images", "buildings.gpkg", "work_dirs/buildings", epochs=20)
        >>> result.metrics["IoU.object"]
    """
    sizes = dict(num_tokens=num_tokens, chip_size=chip_size, batch_size=batch_size)
    for name, value in (sizes | dict(epochs=epochs)).items():
        if name != "num_tokens" or value is not None:
            check_int(name, value)
    if seed is not None:  # None draws one
        check_int("seed", seed, 0, 2**32 - 1)
    if val is None:
        check_share("val_fraction", val_fraction)
    elif not isinstance(val, str | os.PathLike | Iterable):
        raise bad_argument("val", val, "names of images, a file with a list of them, or an area")
    if device is not None:
        check_device(device)
    if not isinstance(cfg_options, Mapping | None):
        raise bad_argument("cfg_options", cfg_options, "a dict of dotted keys of the config")
    for name, value in (("classes", classes), ("palette", palette)):
        if isinstance(value, str) or (value is not None and not hasattr(value, "__len__")):
            raise bad_argument(name, value, "a list, one for each class, or a dict")
    for name, value in (("work_dir", work_dir), ("base", base)):
        check_path(name, value)
    if pretrained is not None:
        pretrained = check_path("pretrained", pretrained, "a checkpoint, or the name of a model")
    images = check_files("images", images)
    if not isinstance(labels, geopandas.GeoDataFrame | geopandas.GeoSeries):
        labels = check_files("labels", labels)
    setup_environment()
    cfg = load_config(find_config(base))
    check_base(cfg, base, DEFAULT_BASE)
    check_chip_size(chip_size, images)
    inputs = [*images, *labels] if isinstance(labels, list) else images
    pretrained = pretrained or cfg.get("load_from")
    inputs = [*inputs, val, pretrained, cfg.filename]
    out = Path(work_dir).expanduser()
    check_arrays(images, out / "arrays" / "images", inputs)
    if isinstance(labels, list):
        check_arrays(labels, out / "arrays" / "masks", inputs)
    prepare_work_dir(out, overwrite, resume, inputs)
    found = inspect_files(
        write_arrays(images, out / "arrays" / "images"),
        _write_labels(labels, out),
        label=label,
        classes=classes,
        palette=palette,
        background=background,
        layer=layer,
    )
    hold_out(found, val_fraction, val, out)
    found.splits["test"] = dict(found.splits["val"])
    use_default_scope(cfg)
    fit_sizes(cfg, **sizes)
    if pretrained and not Path(pretrained).suffix:
        pretrained = find_model(str(pretrained).removeprefix("hook://"))
    fit_run(cfg, out, seed, pretrained)
    fit_data(cfg, found)
    set_statistics(cfg, *measure(cfg, found.how, progress))
    fit_schedule(cfg, epochs, cfg_options or {})
    return train_config(cfg, resume=resume, progress=progress, device=device)


def check_files(name: str, given: Any) -> list[Any]:
    """Return files, folders or arrays as a checked list."""
    try:
        paths = [given] if isinstance(given, str | os.PathLike) or is_array(given) else list(given)
    except TypeError:
        paths = [given]
    for path in paths:
        if is_array(path):
            check_array(path)
        else:
            check_path(name, path, "files, folders or arrays")
    return paths


def check_chip_size(chip_size: int, images: Sequence[Any]) -> None:
    """Check that one image has at least half of a chip's side in one direction."""
    files = [image for image in images if not is_array(image)]
    longest = max((max(check_array(image)) for image in images if is_array(image)), default=0)
    if chip_size <= 2 * longest:
        return
    for path in list_files(files, "", None, RASTER_SUFFIXES, "images") if files else ():
        with open_raster(path) as source:
            longest = max(longest, source.height, source.width)
        if chip_size <= 2 * longest:
            return
    raise ConfigError(
        f"chip_size={chip_size} is too large for the images: chips would be mostly padding",
        expected="an image of half a chip's side or more",
        found=f"images of {longest} pixels at most along a side",
        remedy=f"use a chip_size of {longest} or less",
    )


def check_arrays(given: Sequence[Any], folder: Path, inputs: Sequence[Any]) -> None:
    """Check that the files of arrays replace none that is read, such as one of an earlier run."""
    outputs = [_array_file(folder, number) for number, one in enumerate(given) if is_array(one)]
    paths = [one for one in inputs if isinstance(one, str | os.PathLike)]
    inside = [file for path in paths if os.path.isdir(path) for file in Path(path).iterdir()]
    check_output(outputs, [*inputs, *inside], ConfigError)


def _array_file(folder: Path, number: int) -> Path:
    return folder / f"array_{number}.tif"


def write_arrays(given: Sequence[Any], folder: Path, classes: bool = False) -> list[Any]:
    """Write arrays to files, for data-loader workers and later runs."""
    files = list(given)
    for number, image in enumerate(files):
        if is_array(image):
            folder.mkdir(parents=True, exist_ok=True)
            files[number] = _array_file(folder, number)
            write_array(files[number], image, classes)
    return files


def _write_labels(labels: Any, out: Path) -> Any:
    """Write a table of polygons, or masks as arrays, to files."""
    if not isinstance(labels, geopandas.GeoDataFrame | geopandas.GeoSeries):
        return write_arrays(labels, out / "arrays" / "masks", classes=True)
    if not len(labels) or labels.crs is None:
        raise DataError(
            "labels: the table is empty or has no CRS",
            expected="polygons with a CRS",
            found=f"{len(labels)} rows, CRS {labels.crs}",
            remedy="set the CRS with labels.set_crs(...)",
        )
    path = out / "arrays" / "labels.gpkg"  # not a file of the user's own
    path.parent.mkdir(exist_ok=True)
    table = labels if isinstance(labels, geopandas.GeoDataFrame) else labels.to_frame("geometry")
    with StagedFiles(overwrite=True) as files:
        table.to_file(files.add(path))
        files.commit()
    return path
