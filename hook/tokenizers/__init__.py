"""Tokenizers: image (B, C, H, W) -> tokens (B, N, D) and their assignment to the image.

Pure PyTorch; nothing here knows of MMEngine, files or configs.

Reference:
    Shao et al., "Homogeneous tokenizer matters: Homogeneous visual tokenizer for remote sensing
    image understanding", ISPRS J. Photogramm. Remote Sens. 218 (2024) 294-310, arXiv:2403.18593.
"""

from .assignment import dense_features, token_map
from .hook_tokenizer import PRESETS, HookTokenizer
from .output import TokenizerOutput
from .patch_embed import PatchEmbedTokenizer
from .perception import ObjectPerception, PerceptionBlock
from .stem import SeedStem
from .timm_adapter import HookEmbed, dense_intermediate_layers
from .vectorization import ObjectVectorization

__all__ = [
    "PRESETS",
    "HookEmbed",
    "HookTokenizer",
    "ObjectPerception",
    "ObjectVectorization",
    "PatchEmbedTokenizer",
    "PerceptionBlock",
    "SeedStem",
    "TokenizerOutput",
    "dense_features",
    "dense_intermediate_layers",
    "token_map",
]
