"""From a config and a checkpoint to a model, and from files to predictions."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from torch import nn

from hook.apis.arrays import is_array, is_data_array, raster_file
from hook.arguments import file_name, is_whole_number, refused, shown, whole_number
from hook.checkpoint import check_state_dict, get_state_dict, load_checkpoint, load_weights
from hook.datasets.bands import parse_nodata, read_valid, resolve_bands, to_model_units
from hook.engine.configs import find_config
from hook.engine.runner import config_errors, load_config, setup_environment
from hook.engine.tta import KINDS as TTA_KINDS
from hook.engine.tta import enable_tta
from hook.errors import ConfigError, DataError
from hook.evaluation.accuracy import write_predictions
from hook.evaluation.prediction_writer import ClassMapFile, map_dtype
from hook.progress import progress_bar
from hook.tokenizers import TokenizerOutput
from hook.tokenizers.validity import check_marks, mark_invalid
from hook.zoo import find_model, read_published

# A dataset loads images and masks itself; these would load them again.
_LOADING = ("LoadImageFromFile", "LoadAnnotations", "LoadBands")

_DEFAULT_WINDOW = 512


class Prediction(NamedTuple):
    """What a model says of one file."""

    file: str
    """The image."""
    label: str | None
    """Predicted class of a scene classification."""
    scores: np.ndarray | None
    """(K,) probabilities of a scene classification."""
    mask: np.ndarray | None
    """(H, W) class indexes of a segmentation, 255 where the image has no data; None if written."""
    output: str | None
    """File the mask was written to."""
    geo: Mapping[str, Any] | None = None
    """Where the image lies: ``crs`` (WKT), ``transform``, ``height`` and ``width``."""


# ---------------------------------------------------------------------------------- models
def load_model(
    config_or_name: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Load a model: by its name, from a published file, or a config's with a checkpoint.

    Args:
        config_or_name: Without ``checkpoint`` the name of a model that ``hook models list`` shows,
            or a ``.safetensors`` file that was published; reading it runs no code. With one a
            config: its file, the name of one that comes with HOOK, or one that was read already.
        checkpoint: Checkpoint file of the config's model; every weight must fit.
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``.

    Returns:
        The model in evaluation mode, with ``cfg``, ``dataset_meta`` (``classes``, ``palette``,
        ``bands``, ...: the checkpoint's, else the config's) and ``weights_file``.

    Raises:
        ConfigError: The config or the device cannot be used, or there is no model of that name.
        CheckpointError: The checkpoint cannot be read, is not safe, or belongs to another model.
    """
    if not isinstance(config_or_name, Config):
        file_name(
            "config_or_name",
            config_or_name,
            "the name of a model, its .safetensors file, or a config with its checkpoint",
            "`hook models list` shows the models that have a name",
        )
    if checkpoint is not None:
        file_name("checkpoint", checkpoint)
    setup_environment()
    if checkpoint is None:
        model = _load_published(config_or_name)
    else:
        cfg = config_or_name if isinstance(config_or_name, Config) else _read(config_or_name)
        model = build_model(cfg)
        meta = dict(load_weights(model, checkpoint).get("meta") or {})
        model.cfg = cfg
        model.dataset_meta = _dataset_meta(cfg, meta, model)
        model.weights_file = Path(checkpoint)
    try:
        model.to(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(
            f"device {device} cannot be used",
            expected="cpu, or cuda where PyTorch finds a GPU",
            found=str(error).splitlines()[0],
            remedy="leave --device out to run on the CPU",
        ) from None
    return model.eval()


def _read(config: str | os.PathLike) -> Config:
    """Read a config by path, or by the name it has in HOOK."""
    is_name = not Path(config).exists() and Path(config).name == Path(config).stem == str(config)
    return load_config(find_config(config) if is_name else config)


def _load_published(name: str | os.PathLike | Config) -> nn.Module:
    """Load a model that is one file."""
    if isinstance(name, Config) or Path(name).suffix in (".py", ".json", ".yml", ".yaml"):
        raise ConfigError(
            "a config was given without a checkpoint",
            expected="a config and its checkpoint; or the name of a model, or its .safetensors "
            "file, alone; or a model from load_model",
            found=getattr(name, "filename", name),
            remedy="give the checkpoint too",
        )
    if Path(name).suffix in (".pth", ".pt", ".ckpt"):
        raise ConfigError(
            f"checkpoint {name} was given without its config",
            expected="a config and its checkpoint; or a published .safetensors file alone",
            found="a checkpoint alone, which does not say of which model",
            remedy="give the config first, then the checkpoint",
        )
    path = find_model(name)
    card = read_published(path)
    dataset = dict(metainfo=card.dataset_meta, pipeline=card.test_pipeline)
    cfg = Config(
        dict(
            default_scope=card.default_scope,
            model=card.model,
            test_dataloader=dict(dataset=dataset),
        ),
        filename=f"{card.name}.json",  # what files made by it will name
        cfg_text=card.to_json(),
        format_python_code=False,
    )
    weights = get_state_dict(load_checkpoint(path))
    with torch.device("meta"):  # before memory is taken for weights that the file has not
        check_state_dict(build_model(cfg), weights, path)
    model = build_model(cfg)
    model.load_state_dict(weights, strict=False)  # only BatchNorm counters may be absent
    model.cfg, model.card, model.weights_file = cfg, card, path
    model.dataset_meta = _dataset_meta(cfg, dict(dataset_meta=card.dataset_meta), model)
    return model


@contextmanager
def use_tokens(model: nn.Module, num_tokens: int | None) -> Iterator[None]:
    """Let a model use another number of tokens for a while.

    Args:
        model: A model with a HOOK tokenizer.
        num_tokens: From 1 to the tokenizer's ``max_tokens``; None changes nothing.

    Raises:
        ConfigError: See :func:`checked_tokens`.
    """
    if num_tokens is None:
        yield
        return
    num_tokens = checked_tokens(model, num_tokens)
    tokenizer = model.backbone.tokenizer
    usual = tokenizer.num_tokens
    if num_tokens != usual and not tokenizer.nested:
        print_log(
            f"The model was trained with all of its {usual} tokens and has to do without some. "
            "Train with max_tokens for any number.",
            "current",
            logging.WARNING,
        )
    tokenizer.num_tokens = num_tokens
    try:
        yield
    finally:
        tokenizer.num_tokens = usual


def checked_tokens(model: nn.Module, num_tokens: int) -> int:
    """Take a number of tokens that a model can have.

    Args:
        model: A model.
        num_tokens: What was given.

    Raises:
        ConfigError: It is no whole number, or the model has no queries to choose from, or too few.
    """
    if not is_whole_number(num_tokens):
        raise refused("num_tokens", num_tokens, "a whole number from 1")
    tokenizer = getattr(require_model(model).backbone, "tokenizer", None)
    most = getattr(tokenizer, "max_tokens", None)
    if most is None:
        kind = type(model.backbone if tokenizer is None else tokenizer).__name__
        raise ConfigError(
            f"the number of tokens of {kind} cannot be chosen",
            expected="a model with hook.HookTokenizer",
            found=kind,
            remedy="leave the number of tokens out",
        )
    if not 1 <= num_tokens <= most:
        raise ConfigError(
            "the model has no queries for that many tokens",
            expected=f"1 to {most} tokens",
            found=num_tokens,
            remedy="train with a larger max_tokens for more",
        )
    return int(num_tokens)


def require_model(model: Any) -> nn.Module:
    """Refuse what is no model that was loaded.

    Raises:
        ConfigError: It is something else, such as a model's name.
    """
    if not hasattr(model, "backbone"):
        raise refused("model", model, "a model from load_model", "load it: load_model(name)")
    return model


def as_model(
    config_or_model: str | os.PathLike | Config | nn.Module,
    checkpoint: str | os.PathLike | None,
    device: str = "cpu",
) -> nn.Module:
    """Return a loaded model as it is; load any other, see :func:`load_model`.

    Raises:
        ConfigError: A config came without a checkpoint, or a model with one.
        CheckpointError: See :func:`load_model`.
    """
    if isinstance(config_or_model, nn.Module):
        if checkpoint is not None:
            raise ConfigError(
                "a loaded model was given, and a checkpoint",
                expected="a config and its checkpoint, or a model and None",
                found="both",
                remedy="leave the checkpoint out",
            )
        return config_or_model
    return load_model(config_or_model, checkpoint, device)


def build_model(cfg: Config) -> nn.Module:
    """Build the model a config describes, with fresh weights.

    Raises:
        ConfigError: The model section cannot be built.
    """
    use_scope_of(cfg)
    options = cfg.model.copy()
    if cfg.get("data_preprocessor") is not None:
        options.setdefault("data_preprocessor", cfg.data_preprocessor)
    with config_errors("model"), warnings.catch_warnings():
        # mmseg's advice to people who write heads, at every start of a model with two classes.
        warnings.filterwarnings("ignore", message="For binary segmentation, we suggest")
        model = MODELS.build(options)
        check_marks(model)
    return model


def use_scope_of(cfg: Config) -> None:
    """Let names without a scope mean what they mean in a config."""
    scope = cfg.get("default_scope", "hook")
    current = DefaultScope.get_current_instance()
    if current is None or current.scope_name != scope:
        with warnings.catch_warnings():  # it warns where another model's scope came before
            warnings.simplefilter("ignore")
            init_default_scope(scope)
    if scope == "mmseg":
        with contextlib.redirect_stdout(io.StringIO()):  # it names each package that it misses
            import mmseg.datasets  # noqa: F401


def num_classes_of(model: nn.Module) -> int:
    """Return the number of classes a model tells apart."""
    head = getattr(model, "decode_head", None) or model.head
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    return int(head.num_classes)


def default_window(model: nn.Module) -> int:
    """Return the window a model was made for, or 512 where it takes any."""
    tokenizer = getattr(model.backbone, "tokenizer", None)
    size = getattr(tokenizer, "img_size", None)
    if size is None:
        return _DEFAULT_WINDOW
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ConfigError(
            f"the model takes images of {height} x {width} pixels",
            expected="a square size, to map a scene",
            remedy="train with a square img_size",
        )
    return int(height)


def is_segmentation(model: nn.Module) -> bool:
    """Tell whether a model gives a class to each pixel, not to the image."""
    return hasattr(model, "decode_head")


def _dataset_meta(cfg: Config, checkpoint_meta: Mapping, model: nn.Module) -> dict[str, Any]:
    meta = checkpoint_meta.get("dataset_meta")
    if not isinstance(meta, Mapping):
        meta = _find_key(cfg.get("test_dataloader"), "metainfo") or cfg.get("metainfo") or {}
    meta = dict(meta)
    count = num_classes_of(model)
    if "classes" in meta:
        meta["classes"] = tuple(meta["classes"])
    meta.setdefault("classes", tuple(f"class_{index}" for index in range(count)))
    if len(meta["classes"]) != count:
        raise ConfigError(
            "the model's head and the dataset meta name different numbers of classes",
            expected=f"{count}, num_classes of the head",
            found=f"{len(meta['classes'])}: {', '.join(map(str, meta['classes']))}",
            remedy="give the config the checkpoint was trained with",
        )
    return meta


def _find_key(section: Any, key: str) -> Any:
    """Return the first value of ``key`` in nested dicts and lists, dataset wrappers included."""
    if isinstance(section, Mapping):
        if section.get(key) is not None:
            return section[key]
        section = list(section.values())
    if isinstance(section, (list, tuple)):
        for part in section:
            if (found := _find_key(part, key)) is not None:
                return found
    return None


def band_count_of(model: nn.Module) -> int | None:
    """Return the number of bands a model takes, where it says so."""
    tokenizer = getattr(model.backbone, "tokenizer", None)
    return getattr(tokenizer, "in_channels", None)


# ---------------------------------------------------------------------------------- images
def read_sample(path: Any, model: nn.Module) -> dict[str, Any]:
    """Read an image as the model's datasets do.

    Args:
        path: Any raster GDAL opens: GeoTIFF, PNG, JPEG; or an array, see
            :func:`hook.apis.arrays.raster_file`.
        model: From :func:`load_model`; its ``dataset_meta`` names the bands.

    Returns:
        The sample dictionary that pipelines take: ``img`` (H, W, C) native values, ``valid``
        (H, W) uint8, sizes, and ``geo`` where the file is georeferenced.

    Raises:
        DataError: The file is missing or unreadable, or lacks a band.
    """
    if is_array(path):
        with raster_file(path) as file:
            return read_sample(file, model)
    meta = model.dataset_meta
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as source:
                indexes = resolve_bands(source, meta.get("bands"))
                image = source.read(indexes)
                valid = read_valid(source, indexes, image, nodata=parse_nodata(meta.get("nodata")))
                crs, transform = source.crs, source.transform
        except (RasterioError, OSError) as error:
            raise DataError(
                f"image {path} cannot be read",
                expected="a raster such as GeoTIFF, PNG or JPEG",
                found="no such file" if not Path(path).exists() else str(error).splitlines()[0],
                remedy="check the path and that the file is complete",
            ) from None
    wanted = band_count_of(model)
    if wanted is not None and len(image) != wanted:
        raise DataError(
            f"image {path} has another number of bands than the model takes",
            expected=f"{wanted} bands",
            found=f"{len(image)} bands",
            remedy="name the bands to take in metainfo['bands'] of the config",
        )
    sample = {
        "img": np.ascontiguousarray(image.transpose(1, 2, 0)),
        "valid": valid.astype(np.uint8),
        "seg_fields": ["valid"],
        "img_path": str(path),
        "img_shape": image.shape[1:],
        "ori_shape": image.shape[1:],
        "reduce_zero_label": False,
        "sample_idx": 0,
        "dataset_meta": meta,
    }
    if crs is not None:
        sample["geo"] = {
            "crs": crs.to_wkt(),
            "transform": tuple(transform)[:6],
            "height": image.shape[1],
            "width": image.shape[2],
            "source": None,
            "window": None,
        }
    return sample


def check_values(model: nn.Module, image: Any, name: str) -> np.ndarray:
    """Take an array as an image.

    Args:
        model: From :func:`load_model`.
        image: Native values (C, H, W) in the model's band order.
        name: What the image is called in messages.

    Raises:
        DataError: It is no array of numbers of this shape, or has other bands than the model takes.
    """
    try:
        values = np.asarray(image)
    except ValueError:  # lists of several lengths
        values = np.empty(0, object)
    bands = band_count_of(model)
    shaped = values.ndim == 3 and 0 not in values.shape and bands in (None, len(values))
    if not shaped or values.dtype.kind not in "biuf":
        raise DataError(
            f"{name} does not fit the model",
            expected=f"a file, or an array ({bands or 'C'}, h, w) of numbers",
            found=f"shape {values.shape} of {values.dtype}" if values.size else shown(image),
            remedy="give the model's bands in its order",
        )
    return values


def check_validity(values: np.ndarray, valid: Any, name: str, blank: bool = False) -> np.ndarray:
    """Take an array that tells which pixels of an image count.

    Args:
        values: (C, H, W), the image.
        valid: (H, W), nonzero where pixels count; all do if None.
        name: What the image is called in messages.
        blank: Let there be no pixel that counts.

    Returns:
        (H, W) bool.

    Raises:
        DataError: It has another shape, holds no numbers, or no pixel counts.
    """
    found = np.ones(values.shape[1:], bool) if valid is None else np.asarray(valid)
    numbers = found.dtype.kind in "biuf"
    if found.shape != values.shape[1:] or not numbers or not (blank or found.any()):
        what = int(found.astype(bool).sum()) if numbers else found.dtype
        raise DataError(
            f"{name}: validity of its pixels (valid)",
            expected=f"shape {values.shape[1:]} with a valid pixel",
            found=f"shape {found.shape} with {what}",
            remedy="give a validity of the image's height and width, True where its pixels count",
        )
    return found != 0


def refuse_validity(image: Any, valid: Any) -> None:
    """Refuse a validity beside an image that has its own.

    Args:
        image: A file or a DataArray.
        valid: What the caller gave; None is right.

    Raises:
        ConfigError: There is one.
    """
    if valid is not None:
        raise ConfigError(
            "valid goes with an array of values",
            found="a DataArray" if is_data_array(image) else f"the file {image}",
            remedy="leave valid out: its nodata value tells",
        )


def _test_pipeline(model: nn.Module) -> Compose:
    steps = _find_key(model.cfg.get("test_dataloader"), "pipeline")
    if not steps:
        steps = [
            dict(type="hook.PackSegSample" if is_segmentation(model) else "hook.PackClsSample")
        ]
    kept = [s for s in steps if str(s.get("type")).rpartition(".")[2] not in _LOADING]
    with config_errors("the test pipeline"):
        return Compose(kept)


# ---------------------------------------------------------------------------------- predictions
def predict_files(
    config_or_model: str | os.PathLike | Config | nn.Module,
    checkpoint: str | os.PathLike | None,
    files: Sequence[str | os.PathLike],
    out: str | os.PathLike | None = None,
    *,
    device: str = "cpu",
    batch_size: int = 8,
    tta: str | bool | None = None,
    num_tokens: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> list[Prediction]:
    """Classify or segment single images, each as a whole, through the config's test pipeline.

    Args:
        config_or_model: Config, or a model from :func:`load_model`.
        checkpoint: Checkpoint of the config; None with a model.
        files: Images: paths, or arrays (see :func:`hook.apis.arrays.raster_file`) where nothing is
            written.
        out: For classification a ``.csv`` file. For segmentation a folder for one GeoTIFF mask per
            image, or with one image a ``.tif`` file. Nothing is written where None.
        device: Where the config's model runs.
        batch_size: Images per pass, as far as they have one size.
        tta: Average over flips (``"flip"``) or flips and quarter turns (``"d4"`` or True).
        num_tokens: Number of tokens; None takes the model's.
        overwrite: Replace files that exist.
        progress: Show a progress bar on a terminal.

    Returns:
        One prediction per file, in order. Masks that were written are not kept in memory.

    Raises:
        DataError: A file is missing, unreadable, or does not fit the model.
        ConfigError: The config or an option cannot be used.
        CheckpointError: See :func:`load_model`.
    """
    if isinstance(files, str | os.PathLike) or is_array(files) or not hasattr(files, "__len__"):
        raise refused("files", files, "a list of images", "put the image into a list: [image]")
    if not len(files):
        raise DataError(
            "no image was given", expected="one or more files", remedy="name the images"
        )
    batch_size = whole_number("batch_size", batch_size)
    if tta not in (None, False, True, *TTA_KINDS):
        raise refused("tta", tta, f"one of {', '.join(TTA_KINDS)}, or None")
    if out is not None:
        out = file_name("out", out)
    named = [file_name("files", path, "paths or arrays") for path in files if not is_array(path)]
    missing = [str(path) for path in named if not path.is_file()]
    if missing and Path(missing[0]).is_dir():
        raise DataError(
            f"image {missing[0]} is a folder",
            expected="image files",
            found="a folder",
            remedy="name its files: FOLDER/*.tif, in Python sorted(Path(folder).glob('*.tif'))",
        )
    if missing:
        raise DataError(
            f"image {missing[0]} does not exist",
            expected="image files",
            found=f"{len(missing)} of {len(files)} missing",
            remedy="check the paths",
        )
    model = as_model(config_or_model, checkpoint, device)
    segments = is_segmentation(model)
    targets = _plan_output(files, out, segments, overwrite)
    pipeline = _test_pipeline(model)
    if tta:
        enable_tta(model, "d4" if tta is True else tta)
    predictions: list[Prediction] = []
    try:
        with use_tokens(model, num_tokens):
            for batch in _batches(files, model, pipeline, batch_size, progress):
                for (path, sample), result in zip(batch, _run(model, batch), strict=True):
                    target = targets.get(str(path))
                    predictions.append(_to_prediction(model, str(path), sample, result, target))
    finally:
        if tta:
            del model.test_step  # the class's own is back
    if out is not None and not segments:
        rows = [(p.file, None, p.scores) for p in predictions]
        write_predictions(out, model.dataset_meta["classes"], rows)
    return predictions


def _plan_output(files, out, segments: bool, overwrite: bool) -> dict[str, Path]:
    """Choose each file's output and refuse what would be overwritten, before anything is done."""
    if out is None:
        return {}
    if any(map(is_array, files)):
        raise ConfigError(
            "arrays have no names for their results",
            expected="files, where out is given",
            found=f"{sum(map(is_array, files))} arrays",
            remedy="leave out away, and write what is returned",
        )
    if not segments:
        if out.suffix.lower() != ".csv":
            raise ConfigError(
                f"{out}: classifications are written as CSV",
                expected="a name ending in .csv",
                remedy="give --out a name ending in .csv",
            )
        targets = {}
        finals = [out]
    elif out.suffix.lower() in (".tif", ".tiff"):
        if len(files) > 1:
            raise ConfigError(
                f"{out} is one file, but {len(files)} images were given",
                expected="a folder",
                remedy="give a folder, or one image",
            )
        targets = {str(files[0]): out}
        finals = [out]
    else:
        targets = {str(path): out / f"{Path(path).stem}.tif" for path in files}
        finals = list(targets.values())
        if len(set(finals)) < len(finals):
            twice = next(path for path in finals if finals.count(path) > 1)
            raise ConfigError(
                f"two images would be written to {twice}",
                remedy="predict images of the same name in separate runs",
            )
    inputs = {Path(path).resolve() for path in files}
    for path in finals:
        if path.resolve() in inputs:
            raise ConfigError(f"{path} is an input", remedy="choose another output")
        if path.exists() and not overwrite:
            raise ConfigError(
                f"{path} exists already", remedy="choose another output or overwrite (--overwrite)"
            )
    return targets


def _batches(files, model, pipeline, batch_size: int, progress: bool) -> Iterator[list]:
    """Give (path, packed sample) in batches of one image size."""
    batch: list[tuple[str, dict]] = []
    for number, path in enumerate(progress_bar(files, unit="image", show=progress)):
        sample = pipeline(read_sample(path, model))
        path = f"array {number}" if is_array(path) else path
        if batch and (
            len(batch) == batch_size or batch[0][1]["inputs"].shape != sample["inputs"].shape
        ):
            yield batch
            batch = []
        batch.append((str(path), sample))
    if batch:
        yield batch


@torch.inference_mode()
def _run(model: nn.Module, batch: list[tuple[str, dict]]) -> list:
    if model.training:
        raise RuntimeError("the model is in training mode; load_model gives it in evaluation mode")
    data = {
        "inputs": [sample["inputs"] for _, sample in batch],
        "data_samples": [sample["data_samples"] for _, sample in batch],
    }
    try:
        return model.test_step(data)
    except ValueError as error:  # a tokenizer tied to a size says so this way
        raise DataError(
            f"image {batch[0][0]} does not fit the model",
            found=error,
            remedy="resize in the config's test pipeline, or map the image with 'hook map'",
        ) from None


def _to_prediction(model, path: str, sample: dict, result, target: Path | None) -> Prediction:
    classes = model.dataset_meta["classes"]
    if not is_segmentation(model):
        label = classes[int(result.pred_label)]
        scores = result.pred_score.float().cpu().numpy()
        return Prediction(path, label, scores, None, None, result.metainfo.get("geo"))
    mask = result.pred_sem_seg.data.squeeze(0).cpu().numpy().astype(map_dtype(len(classes)))
    valid = _valid_of(result, mask.shape)
    if valid is not None:
        mask[~valid] = np.iinfo(mask.dtype).max
    if target is None:
        return Prediction(path, None, None, mask, None, result.metainfo.get("geo"))
    geo = result.metainfo.get("geo") or {}
    transform = rasterio.Affine(*geo.get("transform", rasterio.Affine.identity()[:6])[:6])
    sink = ClassMapFile(
        target, geo.get("crs"), transform, *mask.shape, classes, model.dataset_meta.get("palette")
    )
    with sink as raster:
        raster.write(mask, 1)
    return Prediction(path, None, None, None, str(target), geo or None)


def _valid_of(result, shape: tuple[int, int]) -> np.ndarray | None:
    """Return where the image has data, on the prediction's grid."""
    if "valid_mask" not in result:
        return None
    valid = result.valid_mask.data[0].cpu().numpy() > 0
    if valid.shape != shape:  # the pipeline resized the image, and the model its answer back
        rows = np.arange(shape[0]) * valid.shape[0] // shape[0]
        cols = np.arange(shape[1]) * valid.shape[1] // shape[1]
        valid = valid[rows[:, None], cols]
    return valid


# ---------------------------------------------------------------------------------- tokens
@torch.inference_mode()
def tokenize(
    model: nn.Module,
    image: Any,
    valid: np.ndarray | None = None,
    num_tokens: int | None = None,
) -> TokenizerOutput:
    """Cut an image into tokens.

    Args:
        model: From :func:`load_model`.
        image: A file, an xarray.DataArray (band, y, x), or native values (C, H, W) in the model's
            band order.
        valid: (H, W), nonzero where an array's pixels count.
        num_tokens: Number of tokens; None takes the model's.

    Returns:
        Tokens (1, N, D) and assignment (1, N, h, w) on the CPU;
        :func:`hook.tokenizers.token_map` draws the regions from the latter.

    Raises:
        ConfigError: The model has no tokenizer, ``num_tokens`` is impossible (see
            :func:`checked_tokens`), or ``valid`` came with a file.
        DataError: The image cannot be read or does not fit the model, or ``valid`` the image.
    """
    tokenizer = getattr(require_model(model).backbone, "tokenizer", None)
    if tokenizer is None:
        raise ConfigError(
            f"{type(model.backbone).__name__} has no tokenizer",
            expected="a model with hook.TokenViT as its backbone",
            remedy="take a config whose backbone is hook.TokenViT",
        )
    if num_tokens is not None:
        checked_tokens(model, num_tokens)
    if isinstance(image, (str, os.PathLike)) or is_data_array(image):
        refuse_validity(image, valid)
        name = "the image" if is_data_array(image) else f"image {image}"
        packed = _test_pipeline(model)(read_sample(image, model))
        data = {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}
    else:
        name = "the image"
        values = check_values(model, image, name)
        valid = None if valid is None else check_validity(values, valid, name, blank=True)
        inputs = torch.from_numpy(to_model_units(values, valid, model.dataset_meta))
        if valid is not None and getattr(model.data_preprocessor, "mark_invalid", False):
            inputs = mark_invalid(inputs, torch.from_numpy(valid))
        data = {"inputs": [inputs]}
    data = model.data_preprocessor(data, False)
    try:
        with use_tokens(model, num_tokens):
            output = tokenizer(torch.stack(list(data["inputs"])))
    except ValueError as error:
        raise DataError(
            f"{name} does not fit the model",
            found=error,
            remedy="cut or resize it to the size the model was trained with",
        ) from None
    return output.cpu()
