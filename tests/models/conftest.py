import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

HOOK = dict(type="hook.HookTokenizer", img_size=64, seed_dims=32, num_tokens=8)
PATCH = dict(type="hook.PatchEmbedTokenizer", img_size=64, patch_size=16)
PATCH_POS = PATCH | dict(with_pos_embed=True)
SPACE_TIME = dict(type="hook.SpaceTimeTokenizer", patch_size=16, depth=1, num_heads=2)
SPACE_TIME |= dict(resolution=10.0)
TOKENIZERS = {"hook": HOOK, "patch_embed": PATCH, "patch_embed_pos": PATCH_POS}
TOKENIZERS["space_time"] = SPACE_TIME


@pytest.fixture(params=sorted(TOKENIZERS))
def tokenizer(request):
    return dict(TOKENIZERS[request.param])


@pytest.fixture
def hook_tokenizer():
    return dict(HOOK)


@pytest.fixture
def patch_tokenizer():
    return dict(PATCH_POS)


@pytest.fixture
def seg_samples():
    """Two labelled samples of 64 x 64 pixels and 5 classes, a strip ignored."""

    def make(n=2, size=64, classes=5):
        generator = torch.Generator().manual_seed(1)
        samples = []
        for _ in range(n):
            label = torch.randint(classes, (1, size, size), generator=generator)
            label[:, :4] = 255
            meta = dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size))
            sample = SegDataSample(metainfo=meta)
            sample.gt_sem_seg = PixelData(data=label)
            samples.append(sample)
        return samples

    return make
