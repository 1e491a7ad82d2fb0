"""Parts of models that are pure PyTorch: tokenizers and quantizers."""

from collections.abc import Sequence

from mmengine.registry import Registry
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from hook.errors import ConfigError, DataError
from hook.tokenizers import ImageFacts


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


def check_facts(
    tokenizer: nn.Module | None,
    images: Tensor | Sequence[Tensor],
    facts: ImageFacts | Sequence[ImageFacts] | None,
    samples: Sequence[BaseDataElement] | None = None,
) -> None:
    """Raise DataError with the names of the facts that a tokenizer with ``lacks`` misses.

    Args:
        tokenizer: The tokenizer.
        images: Its input, or one per band group.
        facts: Facts about the images.
        samples: Their samples, for the message.
    """
    if not hasattr(tokenizer, "lacks") or not (missing := tokenizer.lacks(images, facts)):
        return
    lacking = (one for one in samples or () if any(one.get(fact) is None for fact in missing))
    first = next(lacking, None)
    name = "the images" if first is None else first.get("img_path", "a sample")
    raise DataError(
        f"{name}: without {' and '.join(missing)}",
        expected=f"what {type(tokenizer).__name__} needs: resolution in metres per pixel; of "
        "series, dates in days; of several band groups, wavelengths in nanometres",
        remedy="add them to the metainfo of the samples or of the data set; resolution and "
        "wavelengths may also be options of the tokenizer",
    )
