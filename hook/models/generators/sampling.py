"""Options and draws of sampling."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from hook.arguments import check_int, is_int, is_number
from hook.errors import ConfigError

Options = TypeVar("Options", "CodeSampling", "FlowSampling")


def _check(option: str, value: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(
            f"sampling option {option}={value!r}",
            expected=expected,
            found=value,
            remedy=f"correct {option}",
        )


class _OfColumn(NamedTuple):
    temperature: float
    top_k: int
    top_p: float
    guidance: float


@dataclass(frozen=True)
class CodeSampling:
    """How codes are drawn. Each option is one value, or a tuple of one per code of a position.

    Attributes:
        temperature: Divides the logits; 0 takes the most likely code.
        top_k: Only the k most likely codes are drawn; 0: all.
        top_p: Of these, only the most likely ones up to this share of the probability, including
            the code that crosses it; 1: all.
        guidance: Scale s of classifier-free guidance: logits u + s (c - u), with c those of the
            condition, u those of an unknown one. 1: only c is computed.
    """

    temperature: float | tuple[float, ...] = 1.0
    top_k: int | tuple[int, ...] = 0
    top_p: float | tuple[float, ...] = 1.0
    guidance: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        limits = {
            "temperature": (lambda x: x >= 0, "at least 0"),
            "top_k": (lambda x: x >= 0 and is_int(x), "a whole number, at least 0"),
            "top_p": (lambda x: 0 < x <= 1, "above 0, at most 1"),
            "guidance": (lambda x: x >= 0, "at least 0"),
        }
        for name, (holds, expected) in limits.items():
            value = getattr(self, name)
            if isinstance(value, list):  # of a config
                object.__setattr__(self, name, tuple(value))
            each = value if isinstance(value, tuple | list) else (value,)
            numbers = len(each) > 0 and all(map(is_number, each))
            _check(name, value, numbers and all(map(holds, each)), expected)

    def of_column(self, column: int, count: int) -> _OfColumn:
        """Return the options of one of ``count`` codes of a position.

        Raises:
            ConfigError: A tuple has another number of values.
        """
        values = []
        for name in _OfColumn._fields:
            value = getattr(self, name)
            if isinstance(value, tuple):
                _check(name, value, len(value) == count, f"one value, or {count}")
                value = value[column]
            values.append(value)
        return _OfColumn(*values)

    @property
    def guided(self) -> bool:
        """Whether any code is drawn with guidance."""
        each = self.guidance if isinstance(self.guidance, tuple) else (self.guidance,)
        return any(scale != 1 for scale in each)


@dataclass(frozen=True)
class FlowSampling:
    """How a flow is followed from noise to latents.

    Attributes:
        points: Points of time from 0 (noise) to 1 (latents); one step of Euler's method, and one
            pass of the network, between neighbours.
        guidance: Scale s of classifier-free guidance: velocities u + s (c - u). 1: only c.
        guidance_channels: Only the first channels are guided; None: all. The official code guides
            3 of 32, which it compensates by larger scales.
        guidance_start: Time before which there is no guidance.
        shift: s in t <- s t / (1 + (s - 1) t); below 1 more points are close to noise. 1: none.

    Reference:
        Yao et al., "Reconstruction vs. generation", CVPR 2025, arXiv:2501.01423.
    """

    points: int = 50
    guidance: float = 1.0
    guidance_channels: int | None = None
    guidance_start: float = 0.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        limits = {
            "points": (lambda x: x > 1 and is_int(x), "a whole number, 2 or more"),
            "guidance": (lambda x: x >= 0, "at least 0"),
            "guidance_channels": (lambda x: x > 0 and is_int(x), "None, or 1 up"),
            "guidance_start": (lambda x: 0 <= x <= 1, "0 to 1"),
            "shift": (lambda x: x > 0, "above 0"),
        }
        for name, (holds, expected) in limits.items():
            value = getattr(self, name)
            if name != "guidance_channels" or value is not None:
                _check(name, value, is_number(value) and holds(value), expected)

    def times(self) -> Tensor:
        """Return the points of time, (points,) from 0 to 1."""
        times = torch.linspace(0, 1, self.points)
        return self.shift * times / (1 + (self.shift - 1) * times)


def changed(options: Options, changes: dict[str, Any], name: str = "sampling") -> Options:
    """Return options, which ``name`` calls in messages, with some of them changed.

    Raises:
        ConfigError: There is no such option, or its value is invalid.
    """
    known = [field.name for field in fields(options)]
    if unknown := sorted(set(changes) - set(known)):
        raise ConfigError(
            f"unknown {name} options: {', '.join(unknown)}",
            expected=f"some of {', '.join(known)}",
            found=", ".join(unknown),
            remedy="leave them out",
        )
    return replace(options, **changes)


def guide(conditional: Tensor, unknown: Tensor, scale: float, channels: int | None = None):
    """Return u + s (c - u), classifier-free guidance.

    Args:
        conditional: c, (B, C, ...) logits or velocities of the condition.
        unknown: u, those of an unknown condition.
        scale: s.
        channels: Number of leading channels that are guided, the others are c; None: all.
    """
    guided = unknown + scale * (conditional - unknown)
    if channels is None:
        return guided
    return torch.cat([guided[:, :channels], conditional[:, channels:]], dim=1)


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Set the logits of unlikely codes to minus infinity.

    Args:
        logits: (B, K).
        top_k: See :class:`CodeSampling`.
        top_p: See :class:`CodeSampling`.

    Reference:
        Holtzman et al., "The curious case of neural text degeneration", ICLR 2020.
    """
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        p = ordered.softmax(dim=-1)
        # the sum before a code: the one that crosses the share is kept
        unlikely = p.cumsum(dim=-1) - p > top_p
        logits = logits.masked_fill(unlikely.scatter(-1, order, unlikely), -torch.inf)
    return logits


def check_finite(values: Tensor) -> Tensor:
    """Return the logits, bits or latents of a network.

    Raises:
        ConfigError: They are not finite.
    """
    if not values.isfinite().all():
        raise ConfigError(
            "the generator gives values that are not finite",
            expected="a network whose training did not diverge",
            found="NaN or infinity",
            remedy="check its weights and the log of its training",
        )
    return values


def image_generators(seed: int, images: Iterable[int]) -> list[torch.Generator]:
    """Return a random generator for each image, from the seed and the number of the image.

    So an image has the same draws in any batch, and on any device (they are made on the CPU).

    Raises:
        ConfigError: The seed, or a number, is no whole number below 2^32: of larger ones, other
            seeds and images have the same draws.
    """
    generators = []
    for image in images:
        check_int("seed", seed, 0, 2**32 - 1)
        check_int("first", image, 0, 2**32 - 1)
        (word,) = np.random.SeedSequence((seed, image)).generate_state(1, np.uint64)
        generators.append(torch.Generator().manual_seed(int(word >> 1)))
    return generators


def draw_codes(
    logits: Tensor,
    options: CodeSampling,
    column: int,
    count: int,
    generators: list[torch.Generator],
) -> Tensor:
    """Draw a code of each image.

    A code is the largest of logits plus Gumbel noise. Unlike a comparison with sums of
    probabilities, it depends on the rounding of logits, which varies with the size of a batch, only
    where two codes are equal in about six digits.

    Args:
        logits: (B, K); with guidance (2 B, K), first those of the conditions, then of unknown ones.
        options: The options.
        column: Which of the ``count`` codes of the position.
        count: Codes of a position.
        generators: One per image; not used at temperature 0.

    Returns:
        (B,) int64.
    """
    own = options.of_column(column, count)
    logits = check_finite(logits).double()
    if options.guided:
        logits = guide(*logits.chunk(2), own.guidance)
    if own.temperature == 0:
        return logits.argmax(dim=-1)
    logits = filter_logits(logits / own.temperature, own.top_k, own.top_p)
    noise = torch.empty(logits.shape, dtype=torch.float64)
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    return (logits - noise.log_().to(logits.device)).argmax(dim=-1)  # plus Gumbel noise
