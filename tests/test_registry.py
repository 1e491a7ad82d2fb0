import subprocess
import sys

import pytest
from mmengine import registry as mmengine_registry

from hook import registry

NAMES = {
    "MODELS": ["TokenViT", "TokenClassifier", "LinearClsHead", "TokenPyramid",
               "SegFormerStyleHead", "CrossEntropyLoss", "DiceLoss", "FocalLoss",
               "SegDataPreProcessor", "ClsDataPreProcessor", "TileGenerator", "LightningDiT"],
    "DATASETS": ["TorchGeoClassification", "TorchGeoSegmentation", "GeoTIFFFolder"],
    "DATA_SAMPLERS": ["RandomGeoSampler"],
    "TRANSFORMS": ["ScaleBands", "Albumentations", "PackSegSample", "PackClsSample",
                   "ChangeImage"],
    "METRICS": ["Accuracy", "IoUMetric", "ReconstructionMetric", "CodebookMetric",
                "AlignmentMetric"],
    "HOOKS": ["TokenVisualizationHook", "DatasetCheckHook", "CodeCacheHook"],
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(NAMES))
def test_names_are_found_from_mmengines_root(kind):
    root = getattr(mmengine_registry, kind)
    for name in NAMES[kind]:
        found = root.get(f"hook.{name}")
        assert found is not None, name
        assert found.__module__.startswith("hook.")


def test_tokenizers():
    assert registry.TOKENIZERS.get("hook.HookTokenizer") is not None
    assert registry.TOKENIZERS.get("PatchEmbedTokenizer") is not None


def test_quantizers():
    assert registry.QUANTIZERS.get("hook.IndexBackpropQuantizer") is not None
    assert registry.QUANTIZERS.get("LookupFreeQuantizer") is not None


PARTS = ("QUANTIZERS", "TOKENIZERS")  # pure PyTorch: MMEngine has no registry for them


def test_every_registry_is_a_child_of_mmengines():
    for name, value in vars(registry).items():
        if isinstance(value, mmengine_registry.Registry) and name not in PARTS:
            assert value.parent is getattr(mmengine_registry, name)
            assert value.scope == "hook"


@pytest.mark.parametrize(
    "first", ["from hook.apis import *", "import hook.models", "import hook.datasets"]
)
def test_missing_optional_parts_of_openmmlab_are_not_reported(first):
    code = f"{first}; import hook.models, mmseg.datasets"
    command = [sys.executable, "-W", "default::UserWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout, done.stderr) == ("", "")
