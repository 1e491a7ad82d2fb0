"""Mixed precision on a CPU, optimizers of parts, and layer-wise decay of the learning rate."""

from contextlib import contextmanager
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from hook.errors import ConfigError
from hook.registry import OPTIM_WRAPPER_CONSTRUCTORS

# mmseg's, which know ConvNeXt, BEiT and MAE only, and mmpretrain's.
_LAYER_DECAY = (
    "LearningRateDecayOptimizerConstructor",
    "LayerDecayOptimizerConstructor",
    "LearningRateDecayOptimWrapperConstructor",
)


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Optimizer wrapper that trains under bfloat16 autocast on a CPU.

    bfloat16 has float32's range, so gradients need no scaling.
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Run the forward pass under autocast, as MMEngine's ``AmpOptimWrapper`` does."""
        with super().optim_context(model), torch.autocast("cpu", dtype=torch.bfloat16):
            yield


class _OptimWrappers(OptimWrapperDict):
    """MMEngine's dictionary, which tells each wrapper at which iteration a run starts."""

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        for wrapper in self.values():
            wrapper.initialize_count_status(model, init_counts, max_counts)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PartsOptimWrapperConstructor:
    """An optimizer wrapper for each of several parts of a model, and one for the rest.

    Each key of ``optim_wrapper`` beside ``constructor`` is a wrapper's config. A key that is the
    name of a part, such as ``discriminator``, gets its parameters; the one other key, such as
    ``autoencoder``, gets all that remain. Each may have its own ``paramwise_cfg``.

    Args:
        optim_wrapper_cfg: Section ``optim_wrapper`` of a config, without ``constructor``.
        paramwise_cfg: None; it belongs into the parts.

    Raises:
        ConfigError: There are several keys for the rest, or none.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.cfg = {k: v for k, v in optim_wrapper_cfg.items() if isinstance(v, dict)}
        if paramwise_cfg or len(self.cfg) < len(optim_wrapper_cfg):
            raise ConfigError(
                "optim_wrapper: options stand beside those of its parts",
                expected="a dict for each part",
                found=", ".join({*optim_wrapper_cfg} - {*self.cfg}) or "paramwise_cfg",
                remedy="move them into the parts",
            )

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """Build the wrappers."""
        model = model.module if is_model_wrapper(model) else model
        parts = dict(model.named_children())
        rest = [name for name in self.cfg if name not in parts]
        if len(rest) != 1:
            raise ConfigError(
                "optim_wrapper does not name the parts of the model",
                expected="names of parts, and one other for the rest",
                found=", ".join(self.cfg),
                remedy=f"the parts are {', '.join(parts)}",
            )
        parts[rest[0]] = nn.ModuleDict(
            {name: part for name, part in parts.items() if name not in self.cfg}
        )
        wrappers = {}
        for name, cfg in self.cfg.items():
            cfg = dict(cfg)
            paramwise_cfg = cfg.pop("paramwise_cfg", None)
            wrappers[name] = DefaultOptimWrapperConstructor(cfg, paramwise_cfg)(parts[name])
        return _OptimWrappers(**wrappers)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LearningRateDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Layer-wise decay of the learning rate (Clark et al. 2020, arXiv:2003.10555; as in BEiT).

    The rate of layer i of L is ``lr * decay_rate ** (L - 1 - i)``. The tokenizer is layer 0, the
    blocks are layers 1 to N, and all else has the full rate. Biases and other one-dimensional
    parameters have no weight decay. :class:`hook.engine.runner.HookRunner` uses it in place of
    mmseg's constructors for a backbone with ``get_layer_depth``, such as
    :class:`hook.models.TokenViT`.

    Args:
        optim_wrapper_cfg: Section ``optim_wrapper`` of a config.
        paramwise_cfg: ``decay_rate`` or ``layer_decay_rate``, above 0 and up to 1; optionally
            ``num_layers`` (the backbone's number of blocks), ``decay_type`` (``'layer_wise'`` or
            ``'layer_wise_vit'``), and the options of MMEngine's constructor.

    Raises:
        ConfigError: If an option is missing or does not fit the backbone.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        options = dict(paramwise_cfg or {})
        rates = [options.pop(key, None) for key in ("decay_rate", "layer_decay_rate")]
        self._rate = rates[0] if rates[1] is None else rates[1]
        self._num_layers = options.pop("num_layers", None)
        kind = options.pop("decay_type", "layer_wise")
        super().__init__(optim_wrapper_cfg, {"flat_decay_mult": 0.0} | options)
        _expect("paramwise_cfg.decay_type", kind, ("layer_wise", "layer_wise_vit"))
        if not isinstance(self._rate, int | float) or not 0 < self._rate <= 1:
            _expect("paramwise_cfg.decay_rate", self._rate, ["above 0 and up to 1"])
        if self.base_lr is None:
            _expect("optimizer.lr", None, ["the learning rate of the last layer"])

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: Any = None
    ) -> None:
        """Add the parameters of a model, in groups with the same options; see MMEngine."""
        if prefix:
            super().add_params(params, module, prefix, is_dcn_module)
            return
        depth = module.backbone.get_layer_depth("")[1] - 2
        _expect("paramwise_cfg.num_layers", self._num_layers, (depth, None))
        names = {parameter: name for name, parameter in module.named_parameters()}
        single: list[dict] = []
        super().add_params(single, module)
        groups: dict[str, dict] = {}
        for group in single:
            (parameter,) = group.pop("params")
            layer, layers = module.backbone.get_layer_depth(names[parameter], "backbone.")
            scale = self._rate ** (layers - 1 - layer)
            group |= dict(lr_scale=scale, lr=group.get("lr", self.base_lr) * scale)
            same = groups.setdefault(str(sorted(group.items())), dict(group, params=[]))
            same["params"].append(parameter)
        params.extend(groups.values())


def _expect(option: str, found: Any, allowed: Any) -> None:
    if found not in allowed:
        raise ConfigError(
            f"optim_wrapper.{option}={found!r}",
            expected=allowed[0],
            found=found,
            remedy=f"correct {option}",
        )


def upgrade_constructor(optim_wrapper: Any, model: nn.Module) -> Any:
    """Replace mmseg's constructors of layer-wise decay by HOOK's, if the backbone has layers.

    Args:
        optim_wrapper: Section of a config; a built one is returned unchanged.
        model: The model.
    """
    kind = optim_wrapper.get("constructor") if isinstance(optim_wrapper, dict) else None
    name = kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", None)
    if name not in _LAYER_DECAY or not hasattr(getattr(model, "backbone", None), "get_layer_depth"):
        return optim_wrapper
    return {**optim_wrapper, "constructor": LearningRateDecayOptimWrapperConstructor}
