"""Build models from configs, and read their properties."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from torch import Tensor, nn

from hook.engine.configs import config_errors
from hook.errors import ConfigError
from hook.tokenizers.positions import fit_positions
from hook.tokenizers.stem import adapt_bands

_DEFAULT_WINDOW = 512


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config with random weights.

    Raises:
        ConfigError: If the model section cannot be built.
    """
    use_default_scope(cfg)
    options = cfg.model.copy()
    if cfg.get("data_preprocessor") is not None:
        options.setdefault("data_preprocessor", cfg.data_preprocessor)
    with config_errors("model"), warnings.catch_warnings():
        # mmseg's advice to authors of heads, for each model with two classes.
        warnings.filterwarnings("ignore", message="For binary segmentation, we suggest")
        return MODELS.build(upgrade_model(options))


def upgrade_model(model: dict | nn.Module) -> dict | nn.Module:
    """Replace mmseg's ``EncoderDecoder`` by :class:`hook.models.TokenSegmentor`.

    Weights and results are the same; in addition it returns the tokens. The config is not changed.

    Args:
        model: Section ``model`` of a config; a built model is returned unchanged.
    """
    kind = model.get("type") if isinstance(model, Mapping) else None
    if isinstance(kind, type):  # of a config in MMEngine's lazy style
        kind = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    if kind not in ("EncoderDecoder", "mmseg.EncoderDecoder"):
        return model
    return ConfigDict(model, type="hook.TokenSegmentor")


def use_default_scope(cfg: Config) -> None:
    """Set the default registry scope of a config."""
    scope = cfg.get("default_scope", "hook")
    current = DefaultScope.get_current_instance()
    if current is None or current.scope_name != scope:
        with warnings.catch_warnings():  # on a change of scope
            warnings.simplefilter("ignore")
            init_default_scope(scope)
    if scope == "mmseg":
        import mmseg.datasets  # noqa: F401


_FIRST_LAYERS = ("tokenizer.stem.expand", "tokenizer.stem.down1.conv", "tokenizer.proj")


def fit_loaded_weights(
    model: nn.Module,
    weights: dict[str, Tensor],
    source: str,
    loaded_bands: Sequence | None = None,
    own_bands: Sequence | None = None,
) -> bool:
    """Fit weights of other images to the model, for fine-tuning.

    Learned positions of another image size are resampled. The first layer of a tokenizer for other
    bands, or the same in another order, gets the weights of the bands with the same names, and zero
    for others; without common names :func:`hook.tokenizers.stem.adapt_bands` applies.

    Args:
        model: The model.
        weights: Its state dict, which is changed.
        source: Name of the checkpoint, for the log and the warning that positions do not fit.
        loaded_bands: Names of the bands of the weights, if known.
        own_bands: Names of the bands of the model, if known.

    Returns:
        Whether weights were replaced.
    """
    changed = False
    for name, own in model.named_parameters():
        loaded, fitted = weights.get(name), None
        if loaded is None:
            continue
        if name.endswith("pos_embed") and loaded.shape != own.shape:
            fitted = _fit_positions(model, name, own, loaded, source)
        elif name.removesuffix(".weight").endswith(_FIRST_LAYERS) and (
            loaded.ndim == 4 and loaded[:, 0].shape == own[:, 0].shape
        ):
            fitted = _fit_bands(loaded, own.shape[1], loaded_bands, own_bands, source)
        if fitted is not None:
            weights[name], changed = fitted, True
    return changed


def _fit_positions(
    model: nn.Module, name: str, own: Tensor, loaded: Tensor, source: str
) -> Tensor | None:
    grid = getattr(model.get_submodule(name.rpartition(".")[0]), "grid_size", None)
    fitted = None
    if grid is not None and loaded.shape[-1] == own.shape[-1]:
        fitted = fit_positions(loaded, grid)
    if fitted is None:
        warnings.warn(
            f"{source}: the positions {name} {tuple(loaded.shape)} do not fit {tuple(own.shape)} "
            "and start anew, at random",
            stacklevel=4,
        )
    else:
        print_log(f"{source}: {name} resampled to {grid[0]} x {grid[1]}", "current")
    return fitted


def _fit_bands(
    loaded: Tensor, count: int, names: Sequence | None, own: Sequence | None, source: str
) -> Tensor | None:
    # Numbers are places in a file, and mean nothing in another one.
    names, own = (
        [band.lower() if isinstance(band, str) else None for band in bands or ()]
        for bands in (names, own)
    )
    common = [band for band in own if band is not None and band in names]
    if not common or len(own) != count or len(names) != loaded.shape[1]:
        if loaded.shape[1] == count:
            return None
        print_log(f"{source}: adapted from {loaded.shape[1]} to {count} bands", "current")
        return adapt_bands(loaded, count)
    if names == own:
        return None
    fitted = loaded.new_zeros(loaded.shape[0], count, *loaded.shape[2:])
    for index, band in enumerate(own):
        if band in common:
            fitted[:, index] = loaded[:, names.index(band)]
    print_log(
        f"{source}: the weights of {', '.join(common)} are used for these bands, others start "
        "from zero",
        "current",
    )
    return fitted


def get_num_classes(model: nn.Module) -> int:
    """Return the number of classes of a model or of its conditions, 0 for one without."""
    condition = getattr(getattr(model, "network", None), "condition", None)
    if condition is not None and condition.kind != "none":
        return condition.num_classes
    head = getattr(model, "decode_head", None) or getattr(model, "head", None)
    if head is None:
        return 0
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    return int(head.num_classes)


def default_window(model: nn.Module) -> int:
    """Return the window size of a model, or 512 if it accepts any size."""
    tokenizer = getattr(getattr(model, "backbone", None), "tokenizer", None)
    size = getattr(tokenizer, "img_size", None)
    if size is None:
        return _DEFAULT_WINDOW
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ConfigError(
            f"the model takes images of {height} x {width} pixels",
            expected="a square size",
            remedy="train with a square img_size",
        )
    return int(height)


def is_segmentation(model: nn.Module) -> bool:
    """Return whether a model predicts a class per pixel, not per image."""
    return hasattr(model, "decode_head")


def get_num_bands(model: nn.Module) -> int | None:
    """Return the number of input bands of a model, None if unknown."""
    tokenizer = getattr(getattr(model, "backbone", model), "tokenizer", model)
    return getattr(tokenizer, "in_channels", None)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set a model to evaluation mode, and back at the end."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
