"""Tokenizers: image (B, C, H, W) -> tokens (B, N, D) and their assignment to the image.

Pure PyTorch, independent of MMEngine, files and configs.

Reference:
    Shao et al., "Homogeneous tokenizer matters: Homogeneous visual tokenizer for remote sensing
    image understanding", ISPRS J. Photogramm. Remote Sens. 218 (2024) 294-310, arXiv:2403.18593.
"""

from hook.tokenizers.assignment import (
    dense_features,
    diffuse_assignment,
    mean_colours,
    spread_cells,
    token_map,
)
from hook.tokenizers.facts import ImageFacts
from hook.tokenizers.hierarchy import RegionHierarchy, merge_seeds, refine_borders
from hook.tokenizers.hook_tokenizer import PRESETS, SIZES, HookTokenizer
from hook.tokenizers.output import SeedMap, TokenizerOutput
from hook.tokenizers.packing import Packed, join_groups, join_samples
from hook.tokenizers.patch_embed import PatchEmbedTokenizer
from hook.tokenizers.perception import (
    LatentMixing,
    NearFarAttention,
    ObjectPerception,
    PerceptionBlock,
    SeedAttention,
)
from hook.tokenizers.slots import SlotAttention, SlotFormer, SlotVectorization
from hook.tokenizers.space_time import BandGroup, SpaceTimeTokenizer
from hook.tokenizers.stem import SeedStem, StridedStem
from hook.tokenizers.timm_adapter import HookEmbed, dense_intermediate_layers
from hook.tokenizers.vectorization import ObjectVectorization, RegionVectorization

__all__ = [
    "PRESETS",
    "SIZES",
    "BandGroup",
    "HookEmbed",
    "HookTokenizer",
    "ImageFacts",
    "LatentMixing",
    "NearFarAttention",
    "ObjectPerception",
    "ObjectVectorization",
    "Packed",
    "PatchEmbedTokenizer",
    "PerceptionBlock",
    "RegionHierarchy",
    "RegionVectorization",
    "SeedAttention",
    "SeedMap",
    "SeedStem",
    "SlotAttention",
    "SlotFormer",
    "SlotVectorization",
    "SpaceTimeTokenizer",
    "StridedStem",
    "TokenizerOutput",
    "dense_features",
    "diffuse_assignment",
    "dense_intermediate_layers",
    "join_groups",
    "join_samples",
    "mean_colours",
    "merge_seeds",
    "refine_borders",
    "spread_cells",
    "token_map",
]
