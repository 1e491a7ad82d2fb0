"""What configs name: backbone, neck, heads, classifier, losses and preprocessors."""

from ..registry import TOKENIZERS
from ..tokenizers import HookTokenizer, PatchEmbedTokenizer
from .classifier import TokenClassifier
from .cls_head import LinearClsHead
from .data_preprocessor import ClsDataPreProcessor, SegDataPreProcessor
from .losses import DiceLoss, FocalLoss
from .pyramid import TokenPyramid
from .seg_head import SegFormerStyleHead
from .token_vit import TokenViT

for tokenizer in (HookTokenizer, PatchEmbedTokenizer):
    TOKENIZERS.register_module(module=tokenizer)

__all__ = [
    "ClsDataPreProcessor",
    "DiceLoss",
    "FocalLoss",
    "LinearClsHead",
    "SegDataPreProcessor",
    "SegFormerStyleHead",
    "TokenClassifier",
    "TokenPyramid",
    "TokenViT",
]
