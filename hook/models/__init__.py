"""Models and their parts for configs: backbones, necks, heads, autoencoders, losses and more."""

from hook.models.autoencoders import (
    AdversarialLoss,
    AlignmentLoss,
    AttentionProjection,
    BlurDiscriminator,
    BlurUpsample,
    FrozenBackbone,
    FusionEncoder,
    GramLoss,
    MAGVIT2Decoder,
    MAGVIT2Encoder,
    NullKeyAttention,
    PatchDiscriminator,
    PerceptualLoss,
    PixelLoss,
    ProgressiveDecoder,
    SeriesAutoencoder,
    SlotAutoencoder,
    SlotDecoder,
    SlotEncoder,
    SpaceTimeDecoder,
    SpaceTimeEncoder,
    TileAutoencoder,
    VQGANDecoder,
    VQGANEncoder,
)
from hook.models.averaging import WeightEMA
from hook.models.classifier import TokenClassifier
from hook.models.cls_head import LinearClsHead
from hook.models.data_preprocessor import (
    ClsDataPreProcessor,
    CodecDataPreProcessor,
    SegDataPreProcessor,
)
from hook.models.generators import (
    CodeTransformer,
    DepthTransformer,
    FactorizedTransformer,
    FlatTransformer,
    LightningDiT,
    TileGenerator,
)
from hook.models.losses import CrossEntropyLoss, DiceLoss, FocalLoss
from hook.models.pretrain_losses import SeedAlignment, SeedReconstruction, TokenAlignment
from hook.models.pretrainer import TokenPretrainer
from hook.models.pyramid import SeedPyramid, TokenPyramid
from hook.models.region_loss import RegionLoss
from hook.models.seed_backbone import SeedBackbone
from hook.models.seg_head import RegionContextHead, SegFormerStyleHead
from hook.models.segmentor import TokenSegmentor
from hook.models.smp_backbone import SMPBackbone
from hook.models.token_model import TokenModel
from hook.models.token_vit import TokenViT
from hook.quantizers import (
    FiniteScalarQuantizer,
    GaussianQuantizer,
    IndexBackpropQuantizer,
    LookupFreeQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
)
from hook.registry import QUANTIZERS, TOKENIZERS
from hook.tokenizers import HookTokenizer, PatchEmbedTokenizer, SpaceTimeTokenizer

for tokenizer in (HookTokenizer, PatchEmbedTokenizer, SpaceTimeTokenizer):
    TOKENIZERS.register_module(module=tokenizer)
for quantizer in (
    FiniteScalarQuantizer,
    GaussianQuantizer,
    IndexBackpropQuantizer,
    LookupFreeQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
):
    QUANTIZERS.register_module(module=quantizer)

__all__ = [
    "AdversarialLoss",
    "AlignmentLoss",
    "AttentionProjection",
    "BlurDiscriminator",
    "BlurUpsample",
    "ClsDataPreProcessor",
    "CodecDataPreProcessor",
    "CodeTransformer",
    "CrossEntropyLoss",
    "DepthTransformer",
    "DiceLoss",
    "FactorizedTransformer",
    "FlatTransformer",
    "FocalLoss",
    "FrozenBackbone",
    "FusionEncoder",
    "GramLoss",
    "LightningDiT",
    "LinearClsHead",
    "MAGVIT2Decoder",
    "MAGVIT2Encoder",
    "NullKeyAttention",
    "PatchDiscriminator",
    "PerceptualLoss",
    "PixelLoss",
    "ProgressiveDecoder",
    "RegionContextHead",
    "RegionLoss",
    "SMPBackbone",
    "SeedAlignment",
    "SeedBackbone",
    "SeedPyramid",
    "SeedReconstruction",
    "SegDataPreProcessor",
    "SeriesAutoencoder",
    "SlotAutoencoder",
    "SlotDecoder",
    "SlotEncoder",
    "SpaceTimeDecoder",
    "SpaceTimeEncoder",
    "SegFormerStyleHead",
    "TileAutoencoder",
    "TileGenerator",
    "TokenAlignment",
    "TokenClassifier",
    "TokenModel",
    "TokenPretrainer",
    "TokenPyramid",
    "TokenSegmentor",
    "TokenViT",
    "VQGANDecoder",
    "VQGANEncoder",
    "WeightEMA",
]
