"""A generator's probabilities of codes, with which a range coder packs them."""

import copy
import json
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from hook import __version__
from hook.errors import ConfigError
from hook.inference.models import name_of
from hook.inference.scenes import digest_of

_STEPS = 32  # of a rounded logit per nat, which costs about 6e-5 bits per code
_WEIGHTS = np.rint(2.0**24 * np.exp(-np.arange(17 * _STEPS) / _STEPS)).clip(1)


def check_code_generator(generator: nn.Module) -> None:
    """Raise ConfigError for a model that gives no probabilities of codes."""
    if getattr(generator, "target", None) != "codes":
        raise ConfigError(
            "the model gives no probabilities of codes",
            expected="hook.TileGenerator with a transformer over codes",
            found=type(getattr(generator, "network", generator)).__name__,
            remedy="pass a generator of the codes of this autoencoder, see configs/generators",
        )


def unknown_labels(network: nn.Module, count: int) -> Tensor:
    """Return the condition of tiles of which nothing is known but their codes.

    Raises:
        ConfigError: The network knows no unknown class.
    """
    condition, device = network.condition, network.rotary.device
    shape = (count, *network.condition_grid) if condition.kind == "map" else (count,)
    labels = torch.zeros(shape, dtype=torch.long, device=device)
    return labels if condition.kind == "none" else condition.unknowns(labels)


class EntropyModel:
    """Packs the codes of tiles with the probabilities that a generator gives to each of them.

    Both sides must get the same probabilities to the last bit. So both go through the codes of a
    tile one after the other, in batches of the same tiles, in double precision; logits are rounded
    to a 32nd, which other threads or machines change in one of about 1e11 logits, and what follows
    is computed with integers from a table.

    Args:
        generator: A :class:`hook.models.generators.TileGenerator` of codes, of
            :func:`hook.apis.load_model`. Its condition is unknown.

    Attributes:
        name: Its name.
        digest: SHA-256 of its network.
        tile: Rows and columns of the codes of a tile.
        bytes: Size of the network's weights.

    Raises:
        ConfigError: It is no generator of codes, or has no unknown condition, or constriction is
            not installed.
    """

    def __init__(self, generator: nn.Module) -> None:
        check_code_generator(generator)
        from hook.evaluation.rates import load_constriction  # imports Pillow

        network = generator.network
        self._coder = load_constriction().stream
        facts = type(network).__name__, network.grid, network.blocks[0].attn.head_dims
        facts += float(network.rotary[1, 0, 0]), getattr(network, "head_blocks", None)
        self.name, self.tile = name_of(generator), network.grid
        self.digest = digest_of(dict(network.named_parameters()), json.dumps(facts))
        self.bytes = sum(weight.nbytes for weight in network.parameters())
        self.sizes = network.codebook_sizes
        self._network = copy.deepcopy(network).double().eval()
        unknown_labels(self._network, 1)

    @property
    def versions(self) -> str:
        """What could change the last bits of a probability."""
        device = next(self._network.parameters()).device.type
        kind = torch.backends.cpu.get_cpu_capability() if device == "cpu" else ""
        threads = torch.get_num_threads()
        return f"HOOK {__version__}, torch {torch.__version__}, {threads} threads, {device} {kind}"

    def _walk(self, known: np.ndarray, visit: Callable[..., np.ndarray]) -> np.ndarray:
        """Return the codes of tiles; those of places without data are 0.

        Args:
            known: (T, N) bool, the places that have a code.
            visit: Called with the logits (n, K) of the known places of a position, the position and
                the column; returns the n codes.
        """

        def choose(logits: Tensor, position: int, column: int) -> Tensor:
            codes, here = np.zeros(len(known), np.int64), known[:, position]
            if here.any():
                codes[here] = visit(logits[torch.from_numpy(here)], position, column)
            return torch.from_numpy(codes).to(logits.device)

        with torch.inference_mode():
            labels = unknown_labels(self._network, len(known))
            return self._network.walk(labels, choose).cpu().numpy()

    def pack(self, codes: np.ndarray, known: np.ndarray) -> tuple[bytes, float]:
        """Pack codes (T, N, Q) of tiles.

        Args:
            codes: The codes.
            known: (T, N) bool, the places that have a code.

        Returns:
            The bytes, and the bits that the codes need by the model's probabilities.
        """
        family = self._coder.model.Categorical(perfect=False)
        encoder, nats = self._coder.queue.RangeEncoder(), []

        def visit(logits: Tensor, position: int, column: int) -> np.ndarray:
            own = codes[known[:, position], position, column].astype(np.int32)
            encoder.encode(own, family, _weights(logits))
            index = torch.from_numpy(own.astype(np.int64)).to(logits.device)[:, None]
            nats.append(-float(logits.log_softmax(dim=-1).gather(1, index).sum()))
            return own

        self._walk(known, visit)
        return encoder.get_compressed().astype("<u4").tobytes(), sum(nats) / math.log(2)

    def unpack(self, packed: bytes, known: np.ndarray) -> np.ndarray:
        """Return the codes (T, N, Q) of :meth:`pack`, 0 where there is none."""
        family = self._coder.model.Categorical(perfect=False)
        words = np.frombuffer(packed, "<u4").astype(np.uint32)
        decoder = self._coder.queue.RangeDecoder(words)
        return self._walk(known, lambda logits, *_: decoder.decode(family, _weights(logits)))


def _weights(logits: Tensor) -> np.ndarray:
    """Return probabilities times a constant as whole numbers, (n, K) float64."""
    from hook.models.generators.sampling import check_finite  # imports all models

    logits = check_finite(logits)
    steps = ((logits.amax(dim=-1, keepdim=True) - logits) * _STEPS).round()
    last = len(_WEIGHTS) - 1
    weights = _WEIGHTS[steps.clamp(max=last).long().cpu().numpy()]
    # The coder wants two symbols.
    return weights if weights.shape[1] > 1 else np.pad(weights, ((0, 0), (0, 1)))
