"""Parts of models that are pure PyTorch: tokenizers and quantizers."""

from mmengine.registry import Registry
from torch import nn

from hook.errors import ConfigError


def build_part(registry: Registry, cfg: dict, option: str) -> nn.Module:
    """Build a tokenizer or a quantizer from a config.

    Args:
        registry: ``TOKENIZERS`` or ``QUANTIZERS`` of :mod:`hook.registry`.
        cfg: ``type``, a name (``hook.`` may stand before it) or a class, and the options.
        option: Name of this config in messages.

    Raises:
        ConfigError: The type or an option is unknown, or a value is invalid.
    """
    options = dict(cfg)
    name = options.pop("type", None)
    kind = registry.get(name) if isinstance(name, str) else name
    if kind is None:
        raise ConfigError(
            f"{option}.type: unknown {registry.name} {name!r}",
            expected=f"one of {sorted('hook.' + key for key in registry.module_dict)}",
            found=name,
            remedy="correct the name, or register your class in "
            f"hook.registry.{registry.name.upper()}S",
        )
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{option}: {error}", found=dict(cfg), remedy=f"see the options of {kind.__name__}"
        ) from error
