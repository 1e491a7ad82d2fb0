import pytest
import timm
import torch

from hook.errors import ConfigError, DataError
from hook.models import TokenViT
from hook.tokenizers import ImageFacts, dense_features


def small(tokenizer, **options):
    options = dict(embed_dims=48, depth=4, num_heads=4) | options
    return TokenViT(tokenizer=tokenizer, **options).eval()


def test_tokens_for_classification(tokenizer):
    tokens = small(tokenizer)(torch.rand(2, 3, 64, 64))
    assert tokens.shape == (2, 8 if "Hook" in tokenizer["type"] else 16, 48)


def test_dense_maps_for_segmentation(tokenizer):
    maps = small(tokenizer, out_indices=(0, 1, -1))(torch.rand(2, 3, 64, 64))
    assert [m.shape for m in maps] == [(2, 48, 4, 4)] * 3


def test_dense_maps_follow_tokens_and_assignment(hook_tokenizer):
    model = small(hook_tokenizer | dict(with_cls_token=True), out_indices=(1, 3), dense_size=8)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        tokenized, after = model.forward_tokens(image)
        maps = model(image)
    for tokens, dense in zip(after, maps, strict=True):
        expected = dense_features(tokens[:, 1:], tokenized.assignment, (8, 8))
        assert torch.equal(dense, expected)


def test_blocks_equal_timms_vit(patch_tokenizer):
    """A TokenViT over patch embedding with positions and a final norm is timm's ViT."""
    model = small(patch_tokenizer | dict(with_cls_token=True), final_norm=True, norm_eps=1e-6)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, embed_dim=48, depth=4, num_heads=4, num_classes=0
    ).eval()
    state = {f"blocks.{k}": v for k, v in vit.blocks.state_dict().items()}
    state |= {f"norm.{k}": v for k, v in vit.norm.state_dict().items()}
    state |= {f"tokenizer.proj.{k}": v for k, v in vit.patch_embed.proj.state_dict().items()}
    state["tokenizer.pos_embed"] = vit.pos_embed[:, 1:]
    state["tokenizer.cls_token"] = vit.cls_token + vit.pos_embed[:, :1]
    model.load_state_dict(state, strict=True)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model(image), vit.forward_features(image), atol=1e-5)


def test_gradients_reach_every_parameter(tokenizer):
    model = small(tokenizer).train()
    model(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("stages", [-1, 0, 2, 4])
def test_frozen_stages_neither_learn_nor_drop(tokenizer, stages):
    options = dict(frozen_stages=stages, drop_path_rate=0.5, final_norm=True)
    model = small(tokenizer, **options).train()
    parts = [model.tokenizer, *model.blocks, model.norm]
    count = len(parts) if stages == 4 else stages + 1
    assert [part.training for part in parts] == [i >= count for i in range(len(parts))]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (model(torch.rand(2, 3, 64, 64)) ** 3).sum().backward() if stages < 4 else None
    optimizer.step()
    for part in parts[:count]:
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())
    if stages < 4:
        assert all(p.grad is not None for part in parts[count:] for p in part.parameters())
    frozen = tuple(f"{name}." for name in ("tokenizer", *(f"blocks.{i}" for i in range(stages))))
    for name, value in model.state_dict().items():
        if stages >= 0 and name.startswith(frozen):
            assert torch.equal(value, before[name])
    small(tokenizer, final_norm=True).load_state_dict(model.state_dict())  # as without
    assert not any(part.training for part in model.eval().modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_heads=5), "divisible"),
        (dict(out_indices=(0, 4)), r"blocks that do not exist: \[4\]"),
        (dict(frozen_stages=5), "frozen_stages=5"),
        (dict(frozen_stages=-2), "frozen_stages=-2"),
    ],
)
def test_bad_options(hook_tokenizer, options, message):
    with pytest.raises(ConfigError, match=message):
        small(hook_tokenizer, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(type="hook.Nothing"), "unknown tokenizer"),
        (dict(embed_dims=64), "differs from the backbone"),
        (dict(tokens=3), "unexpected keyword"),
        (dict(num_tokens=0), "num_tokens must be at least 1"),
    ],
)
def test_bad_tokenizer_config(hook_tokenizer, change, message):
    with pytest.raises(ConfigError, match=message):
        small(hook_tokenizer | change)


def test_found_in_mmseg_without_custom_imports():
    """A fresh process that knows mmseg only."""
    import subprocess
    import sys

    code = (
        "from mmseg.registry import MODELS\n"
        "m = MODELS.build(dict(type='hook.TokenViT', embed_dims=48, depth=1, num_heads=4,"
        " tokenizer=dict(type='hook.HookTokenizer', img_size=32, seed_dims=32)))\n"
        "print(type(m).__module__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout.strip().endswith("hook.models.token_vit")


@pytest.mark.parametrize("dense", [False, True])
def test_every_image_gets_the_tokens_it_needs(dense):
    """Adaptive features of a batch are those of each image alone with its own number."""
    torch.manual_seed(0)
    tokenizer = dict(type="hook.HookTokenizer", preset="fast", seed_dims=16, num_tokens=6)
    options = dict(out_indices=(0, 1), seed_skip=True) if dense else {}
    model = small(tokenizer, **options)
    images = torch.randn(6, 3, 32, 32) * torch.linspace(0.1, 3, 6)[:, None, None, None]
    seeds = model.tokenizer.perceive(images)
    shares = [0.02, 0.05, 0.1, 0.2, 0.3]
    model.explained = max(
        shares, key=lambda s: len(model.tokenizer.count_tokens(seeds, s).unique())
    )
    with torch.no_grad():
        features = model(images)
        counts = [one.num_tokens for one in model.forward_with_tokens(images)[1]]
        assert len(set(counts)) > 1
        for i, count in enumerate(counts):
            alone = model(images[i : i + 1], num_tokens=count)
            if dense:
                for a, b in zip(features, alone, strict=True):
                    assert torch.allclose(a[i], b[0], atol=1e-4)
            else:
                assert torch.allclose(features[i, :count], alone[0], atol=1e-4)
                assert torch.allclose(features[i].mean(0), alone[0].mean(0), atol=1e-4)


def test_explained_needs_a_tokenizer_with_queries(patch_tokenizer, hook_tokenizer):
    for tokenizer, share in ((patch_tokenizer, 0.5), (hook_tokenizer, 1.5)):
        with pytest.raises(ConfigError, match="explained cannot be used"):
            small(tokenizer, explained=share)


def test_images_without_the_facts_that_a_tokenizer_needs():
    tokenizer = dict(type="hook.SpaceTimeTokenizer", depth=1, num_heads=2)
    with pytest.raises(DataError, match="the images: without resolution") as raised:
        small(tokenizer)(torch.rand(1, 3, 16, 16))
    assert "metres per pixel" in str(raised.value)


def test_series_are_cut_into_patches_once(monkeypatch):
    model = small(dict(type="hook.SpaceTimeTokenizer", depth=1, num_heads=2, resolution=10.0))
    cut, calls = model.tokenizer.patches, []
    monkeypatch.setattr(model.tokenizer, "patches", lambda *args: calls.append(1) or cut(*args))
    images, valid = torch.rand(3, 3, 32, 32), torch.ones(3, 32, 32, dtype=torch.bool)
    valid[1, :8, :16] = False
    features, tokens = model.forward_with_tokens(images, facts=ImageFacts(valid))
    assert len(calls) == 1 and [one.num_tokens for one in tokens] == [16, 14, 16]
    alone = model(images[1:2], facts=ImageFacts(valid[1:2]))
    assert torch.allclose(features[1, :14], alone[0], atol=1e-5)
