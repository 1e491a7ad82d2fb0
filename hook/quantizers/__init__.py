"""Quantizers: latents (B, N, D) -> latents for a decoder, codes and losses.

Pure PyTorch, independent of MMEngine and configs. All have one contract, that of
:class:`Quantizer`: ``forward(latents, valid, grid) -> Quantized`` and ``decode(indices)``.
"""

from hook.quantizers.base import Quantized, Quantizer
from hook.quantizers.codebook import Codebook
from hook.quantizers.finite_scalar import FiniteScalarQuantizer
from hook.quantizers.gaussian import GaussianQuantizer
from hook.quantizers.index_backprop import IndexBackpropQuantizer
from hook.quantizers.lookup_free import LookupFreeQuantizer
from hook.quantizers.residual import ResidualQuantizer
from hook.quantizers.vector import VectorQuantizer

__all__ = [
    "Codebook",
    "FiniteScalarQuantizer",
    "GaussianQuantizer",
    "IndexBackpropQuantizer",
    "LookupFreeQuantizer",
    "Quantized",
    "Quantizer",
    "ResidualQuantizer",
    "VectorQuantizer",
]
