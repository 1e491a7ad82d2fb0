"""Read checkpoints without executing code from them.

A ``.pth`` file is a pickle, which can call any function while it is read. HOOK reads every
checkpoint with PyTorch's weights-only unpickler and allows, beyond tensors and plain containers,
only the harmless types that MMEngine writes. :func:`use_safe_loading` applies this reader to
MMEngine's own loading (``resume``, ``load_from``, ``init_cfg=dict(type='Pretrained')``), which
otherwise falls back to full unpickling.
"""

import io
import json
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from torch import nn

from hook.arguments import check_path
from hook.errors import CheckpointError, ConfigError

_LISTED_KEYS = 8
_PUBLISHED = "hook://"


def _safe_types() -> list:
    """Return the types beyond PyTorch's own that an MMEngine checkpoint holds.

    The message hub stores curves as :class:`HistoryBuffer` objects of NumPy arrays; dataset meta
    copied from a config may be a :class:`ConfigDict`. Their constructors have no side effects.
    ``getattr``, which MMEngine's own list allows, could reach anything, so it is replaced by a
    function that only returns the four statistics of a history buffer.
    """
    reconstruct = np._core.multiarray._reconstruct
    scalar = np._core.multiarray.scalar
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdU"}
    return [
        HistoryBuffer,
        ConfigDict,
        np.ndarray,
        np.dtype,
        slice,
        reconstruct,
        scalar,
        (_get_statistic, "builtins.getattr"),
        # Module names of NumPy 1.
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (scalar, "numpy.core.multiarray.scalar"),
        *sorted(dtypes, key=lambda dtype: dtype.__name__),
    ]


def _get_statistic(cls: object, name: str) -> Callable:
    if cls is HistoryBuffer and name in ("min", "max", "mean", "current"):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f"Unsupported attribute: GLOBAL {cls!r}.{name}")


def load_checkpoint(
    path: str | os.PathLike, map_location: str | torch.device | Callable | None = "cpu"
) -> dict:
    """Read a local checkpoint safely.

    Args:
        path: A ``.pth`` file of MMEngine or PyTorch, or a ``.safetensors`` file.
        map_location: As in :func:`torch.load`.

    Returns:
        The checkpoint's dictionary, usually with the keys ``state_dict`` and ``meta``. A
        ``.safetensors`` file becomes ``dict(state_dict=..., meta=...)``.

    Raises:
        CheckpointError: The file is missing, truncated, not a checkpoint, or would execute code
            when read. Nothing in it has been executed.
        ConfigError: ``path`` is not a path.
    """
    path = check_path("checkpoint", path).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint {path} does not exist" if not path.exists() else f"{path} is not a file",
            expected="a checkpoint file written by tools/train.py (.pth) or a .safetensors file",
            found="a folder" if path.is_dir() else "nothing",
            remedy="check the path; a training run lists its files in <work-dir>/last_checkpoint",
        )
    if path.suffix == ".safetensors":
        return _load_safetensors(path, map_location)
    try:
        with torch.serialization.safe_globals(_safe_types()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = io.BytesIO(path.read_bytes())  # PyTorch takes failed reads for zeros
            checkpoint = torch.load(content, map_location=map_location, weights_only=True)
    except Exception as error:  # every way a damaged or hostile file can fail ends here
        raise _read_error(path, error) from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"checkpoint {path} holds no weights",
            expected="a dictionary with 'state_dict', or a state dict",
            found=type(checkpoint).__name__,
            remedy="use a checkpoint written by tools/train.py or torch.save(model.state_dict())",
        )
    _remove_code(checkpoint)
    return checkpoint


def _remove_code(checkpoint: dict) -> None:
    """Drop ``meta['config']``, which MMEngine's ``Runner.resume`` would execute as Python code."""
    meta = checkpoint.get("meta")
    if isinstance(meta, dict):
        meta.pop("config", None)


def _load_safetensors(path: Path, map_location) -> dict:
    from safetensors import SafetensorError, safe_open

    device = map_location if isinstance(map_location, str) else "cpu"
    try:
        with safe_open(str(path), framework="pt", device=device) as file:
            state_dict = {key: file.get_tensor(key) for key in file.keys()}
            meta = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be read",
            expected="a complete .safetensors file",
            found=str(error),
            remedy="copy or download it again",
        ) from None
    published = meta.pop("hook_model", None)
    if published is not None:
        # Description of a published model, validated by hook.zoo; only the dataset meta is needed.
        try:
            meta["dataset_meta"] = dict(json.loads(published)["dataset_meta"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CheckpointError(
                f"checkpoint {path} has an unknown model description",
                expected="a model published by tools/misc/publish_model.py",
                found=f"{published[:60]!r}",
                remedy="use models from a source you trust; nothing of this file has been run",
            ) from None
    return {"state_dict": state_dict, "meta": meta}


def _read_error(path: Path, error: Exception) -> CheckpointError:
    """Return the error that describes why a checkpoint cannot be read."""
    size = path.stat().st_size
    text = str(error)
    match = re.search(r"(?:GLOBAL|global|class|function)[ :]+`?([\w]+(?:\.[\w]+)+)", text)
    unsafe = (
        "Unsupported global" in text
        or "Unsupported class" in text
        or "weights only" in text.lower()
    )
    named = match.group(1) if match else _first_import(path)
    damaged = size == 0 or isinstance(error, EOFError) or _is_broken_zip(path)
    if isinstance(error, OSError) and error.strerror:
        return CheckpointError(
            f"checkpoint {path} cannot be read",
            found=error.strerror,
            remedy="check the disk and the file's permissions",
        )
    if unsafe and not damaged and named:
        return CheckpointError(
            f"checkpoint {path} is refused: reading it would run code",
            expected="tensors and plain Python containers",
            found=f"a pickle that names {named}",
            remedy="use checkpoints only from a source you trust, saved again as "
            "dict(state_dict=model.state_dict()); nothing of this file has been run",
        )
    return CheckpointError(
        f"checkpoint {path} cannot be read: it is truncated or not a checkpoint",
        expected="a complete file written by torch.save",
        found=f"{size} bytes that end early or have a different format",
        remedy="copy or download it again, or use an earlier checkpoint of the run",
    )


def _first_import(path: Path) -> str | None:
    """Return the first function or class named in a bare pickle, without executing it.

    PyTorch's reader stops at opcodes of newer protocols before it reaches any name.
    """
    strings: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    return argument.replace(" ", ".")
                if opcode.name == "STACK_GLOBAL":
                    return ".".join(strings[-2:]) or "a function"
                if isinstance(argument, str):
                    strings.append(argument)
    except (ValueError, IndexError, OSError):  # not a pickle
        return None
    return None


def _is_broken_zip(path: Path) -> bool:
    with path.open("rb") as file:
        starts_as_zip = file.read(4) == b"PK\x03\x04"
    return starts_as_zip and not zipfile.is_zipfile(path)


def use_safe_loading(find_model: Callable[[str], Path]) -> None:
    """Make MMEngine read every checkpoint with :func:`load_checkpoint`.

    Afterwards ``Runner.resume``, ``load_from`` and ``init_cfg=dict(type='Pretrained')`` are safe
    for local files, for published models named ``hook://NAME``, and for URLs that MMEngine
    downloads. May be called more than once.

    Args:
        find_model: Returns the file of a published model, given its name.
    """
    from mmengine.runner import checkpoint as mmengine_checkpoint

    loader = mmengine_checkpoint.CheckpointLoader

    def load_from_local(filename, map_location=None):
        return load_checkpoint(filename, map_location)

    def load_from_http(filename, map_location=None):
        return load_checkpoint(_download(filename), map_location)

    def load_from_hook(filename, map_location=None):
        return load_checkpoint(find_model(filename.removeprefix(_PUBLISHED)), map_location)

    loader.register_scheme(prefixes="", loader=load_from_local, force=True)
    loader.register_scheme(prefixes=_PUBLISHED, loader=load_from_hook, force=True)
    loader.register_scheme(prefixes=("http://", "https://"), loader=load_from_http, force=True)
    # The other schemes (modelzoo://, torchvision://, ...) call these two by name.
    mmengine_checkpoint.load_from_http = load_from_http
    mmengine_checkpoint._safe_torch_load = _load_like_torch


def _load_like_torch(file, map_location=None, weights_only=None):
    """Replace MMEngine's ``_safe_torch_load``, which falls back to full unpickling."""
    if isinstance(file, (str, os.PathLike)):
        return load_checkpoint(file, map_location)
    with torch.serialization.safe_globals(_safe_types()):
        checkpoint = torch.load(file, map_location=map_location, weights_only=True)
    if isinstance(checkpoint, dict):
        _remove_code(checkpoint)
    return checkpoint


def _download(url: str) -> Path:
    """Download ``url`` to PyTorch's checkpoint folder, unless it is there."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    target = folder / Path(url.split("?")[0]).name
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(target))
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {url} cannot be downloaded",
                found=str(error),
                remedy=f"download it by other means and save it as {target}",
            ) from None
    return target


def get_state_dict(checkpoint: Mapping) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint, without the prefix ``module.`` of distributed runs.

    Raises:
        CheckpointError: The dictionary holds no tensors.
    """
    weights = checkpoint.get("state_dict", checkpoint)
    if not isinstance(weights, Mapping):
        weights = {}
    weights = {
        key.removeprefix("module."): value
        for key, value in weights.items()
        if isinstance(value, torch.Tensor)
    }
    if not weights:
        raise CheckpointError(
            "the checkpoint holds no weights",
            expected="'state_dict' with tensors",
            found=f"keys {', '.join(map(str, list(checkpoint)[:_LISTED_KEYS])) or 'none'}",
            remedy="use a checkpoint written by tools/train.py",
        )
    return weights


def check_state_dict(
    model: nn.Module, weights: Mapping[str, torch.Tensor], source: str | os.PathLike
) -> None:
    """Check that a state dict has the keys and shapes of a model, and finite values.

    Args:
        model: The model.
        weights: The checkpoint's state dict.
        source: Name of the checkpoint, for the message.

    Raises:
        CheckpointError: Keys or shapes differ, or weights are not finite; the message lists them.
    """
    state = model.state_dict()
    # BatchNorm's counter has no effect in inference, and older checkpoints lack it.
    missing = [k for k in state if k not in weights and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in weights if k not in state]
    reshaped = [
        f"{k}: {tuple(weights[k].shape)} in the checkpoint, {tuple(state[k].shape)} in the model"
        for k in state
        if k in weights and weights[k].shape != state[k].shape
    ]
    if not (missing or unexpected or reshaped):
        _check_finite(weights, source)
        return
    found = []
    for label, keys in (
        ("different shape", reshaped),
        ("missing in the checkpoint", missing),
        ("not in the model", unexpected),
    ):
        if keys:
            more = f" and {len(keys) - _LISTED_KEYS} more" if len(keys) > _LISTED_KEYS else ""
            found.append(f"{label} ({len(keys)}): " + "; ".join(keys[:_LISTED_KEYS]) + more)
    raise CheckpointError(
        f"checkpoint {source} does not fit the model of the config",
        expected=f"the {len(state)} weights of {type(model).__name__} as the config builds it",
        found="\n         ".join(found),
        remedy="use the config that the checkpoint was trained with (it is in the same work dir), "
        "or the checkpoint of this config",
    )


def nonfinite_weights(weights: Mapping[str, torch.Tensor]) -> str:
    """Return names of the weights that hold NaN or infinity, as text; empty if there are none."""
    broken = [k for k, w in weights.items() if w.is_floating_point() and not w.isfinite().all()]
    more = f" and {len(broken) - _LISTED_KEYS} more" if len(broken) > _LISTED_KEYS else ""
    return ", ".join(broken[:_LISTED_KEYS]) + more


def _check_finite(weights: Mapping[str, torch.Tensor], source: str | os.PathLike) -> None:
    broken = nonfinite_weights(weights)
    if broken:
        raise CheckpointError(
            f"checkpoint {source} holds weights that are not finite",
            expected="numbers",
            found=f"NaN or infinity in {broken}",
            remedy="use an earlier checkpoint of the run; the training diverged",
        )


def check_some_weights(
    model: nn.Module, weights: Mapping[str, torch.Tensor], source: str | os.PathLike
) -> None:
    """Check that at least one weight of a state dict fits the model; see :func:`check_state_dict`.

    Raises:
        CheckpointError: No weight has the name and shape of one of the model.
    """
    state = model.state_dict()
    if any(key in state and weights[key].shape == state[key].shape for key in weights):
        return
    raise CheckpointError(
        f"checkpoint {source} does not fit the model: none of its weights fits",
        expected=f"weights such as {', '.join(list(state)[:2])}",
        found=", ".join(list(weights)[:_LISTED_KEYS]),
        remedy="use a checkpoint of this model, convert it (tools/model_converters), or load a "
        "timm ViT into the blocks with init_cfg=dict(type='Pretrained') of the backbone",
    )


def check_classes(
    model: nn.Module, checkpoint: Mapping, classes: Sequence[str], source: str | os.PathLike
) -> None:
    """Check that the test data have the classes of the model and its checkpoint.

    Args:
        model: Segmentor or classifier.
        checkpoint: The checkpoint, see :func:`load_checkpoint`.
        classes: Class names of the data, in the order of their labels.
        source: Name of the checkpoint, for the message.

    Raises:
        ConfigError: The number of classes differs from the model's, or their order from the
            checkpoint's.
    """
    head = getattr(model, "decode_head", None) or getattr(model, "head", None)
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    count = getattr(head, "num_classes", None)
    if count is not None and count != len(classes):
        raise ConfigError(
            "the data and the model have different numbers of classes",
            expected=f"{count} (num_classes of the head)",
            found=f"{len(classes)} in metainfo['classes']: {', '.join(map(str, classes))}",
            remedy="make num_classes of the head and metainfo['classes'] agree",
        )
    meta = checkpoint.get("meta")
    meta = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
    trained = tuple(meta.get("classes") or ()) if isinstance(meta, Mapping) else ()
    if tuple(classes) != trained and set(classes) == set(trained):
        raise ConfigError(
            f"the data have the classes of checkpoint {source} in a different order",
            expected=", ".join(map(str, trained)),
            found=", ".join(map(str, classes)),
            remedy="order metainfo['classes'] and the labels as in training (label_map can)",
        )


def warn_input_changes(
    model: nn.Module, checkpoint: Mapping, meta: Mapping, source: str | os.PathLike
) -> None:
    """Warn if the data's bands or the model's statistics differ from those of the checkpoint.

    Args:
        model: Segmentor or classifier, with its preprocessor.
        checkpoint: The checkpoint, see :func:`load_checkpoint`.
        meta: Meta of the data; ``bands`` is compared.
        source: Name of the checkpoint, for the message.
    """
    trained = checkpoint.get("meta")
    trained = trained.get("dataset_meta") if isinstance(trained, Mapping) else None
    if not isinstance(trained, Mapping):
        return
    changes = []
    bands, before = ([_band(band) for band in each.get("bands") or ()] for each in (meta, trained))
    # Names and numbers of bands cannot be compared.
    if bands and before and bands != before and len(set(map(type, bands + before))) == 1:
        changes.append(("metainfo['bands']", trained["bands"], meta["bands"]))
    # A range of values stands in place of the statistics of the data.
    ranged = getattr(model.data_preprocessor, "value_range", None) is not None
    for key in () if ranged else ("mean", "std"):
        now, before = getattr(model.data_preprocessor, key, None), trained.get(key)
        if now is None or before is None:
            continue
        now, before = now.flatten().tolist(), np.ravel(before).astype(float)
        if len(now) not in (1, len(before)) or not np.allclose(now, before, 1e-4, 1e-6):
            changes.append((f"model.data_preprocessor.{key}", before.tolist(), now))
    for what, before, now in changes:
        warnings.warn(
            f"{source} was trained with different {what}: {list(before)}, not {list(now)}; the "
            "results may be wrong. Use the config of the training (it is in the same work dir)",
            stacklevel=2,
        )


def _band(band: object) -> str | int:
    return band.casefold() if isinstance(band, str) else int(band)


def load_weights(model: nn.Module, path: str | os.PathLike) -> dict:
    """Load a checkpoint file, or a published model ``hook://NAME``, into a model; all must fit.

    Names need :func:`use_safe_loading`.

    Returns:
        The checkpoint, with ``meta``.

    Raises:
        CheckpointError: See :func:`load_checkpoint` and :func:`check_state_dict`.
    """
    if str(path).startswith(_PUBLISHED):
        from mmengine.runner import CheckpointLoader

        checkpoint = CheckpointLoader.load_checkpoint(str(path), "cpu", logger=None)
    else:
        checkpoint = load_checkpoint(path)
    weights = get_state_dict(checkpoint)
    check_state_dict(model, weights, path)
    model.load_state_dict(weights, strict=False)  # only BatchNorm counters may be absent
    return checkpoint


def find_resumable(work_dir: str | os.PathLike) -> Path | None:
    """Return the newest readable checkpoint of a run, or None if it has no checkpoints.

    The one named in ``last_checkpoint`` is tried first. A run killed while writing may leave that
    file empty or outdated; then the numbered checkpoints are tried, newest first. A checkpoint
    outside the folder is used only if the folder has none and the run wrote it: in a folder of the
    same name (``out_dir`` of MMEngine's ``CheckpointHook``).

    Raises:
        CheckpointError: None of the checkpoints can be read, or ``last_checkpoint`` names one of
            another run.
    """
    work_dir = Path(work_dir)
    pointer = work_dir / "last_checkpoint"
    named = Path(text) if pointer.is_file() and (text := pointer.read_text().strip()) else None
    numbered = [p for p in work_dir.glob("*.pth") if re.fullmatch(r"(epoch|iter)_\d+", p.stem)]
    candidates = sorted(numbered, key=lambda p: p.stat().st_mtime, reverse=True)
    if named is not None:
        # The folder may have been copied or moved since.
        candidates.insert(0, work_dir / named.name)
    candidates = [p for p in dict.fromkeys(candidates) if p.is_file()]
    if not candidates and named is not None and named.is_file():
        if named.resolve().parent.name != work_dir.resolve().name:
            raise CheckpointError(
                f"{pointer} names the checkpoint of another folder",
                expected=f"a checkpoint in {work_dir}",
                found=named,
                remedy=f"to go on from it, pass it: --resume {named}",
            )
        candidates = [named]
    first_error = None
    for path in candidates:
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            first_error = first_error or error
        else:
            return path
    if first_error is not None:
        raise first_error
    return None
