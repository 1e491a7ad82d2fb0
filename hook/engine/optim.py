"""Mixed precision on a CPU, and layer-wise decay of the learning rate."""

from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
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
