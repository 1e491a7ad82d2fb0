"""Generators of tiles: networks over codes and latents, and their training."""

from hook.models.generators.code_transformers import (
    CodeTransformer,
    DepthTransformer,
    FactorizedTransformer,
    FlatTransformer,
)
from hook.models.generators.lightningdit import FlowTimes, InnerAlignment, LightningDiT
from hook.models.generators.sampling import CodeSampling, FlowSampling, filter_logits
from hook.models.generators.tile_generator import TileGenerator

__all__ = [
    "CodeSampling",
    "CodeTransformer",
    "DepthTransformer",
    "FactorizedTransformer",
    "FlatTransformer",
    "FlowSampling",
    "FlowTimes",
    "InnerAlignment",
    "LightningDiT",
    "TileGenerator",
    "filter_logits",
]
