"""Models with the preset objects: region context, the loss of regions, and configs of both."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config

from hook.engine.models import build_model
from hook.errors import ConfigError
from hook.models import RegionContextHead, RegionLoss, SegFormerStyleHead, TokenViT
from hook.models.region_loss import _OFFSETS, label_shares
from hook.registry import MODELS
from hook.structures import ClsDataSample
from hook.tokenizers import ImageFacts, merge_seeds

OBJECTS = dict(type="hook.HookTokenizer", preset="objects", img_size=64, seed_dims=32, num_tokens=8)


def backbone(**options):
    torch.manual_seed(0)
    return TokenViT(OBJECTS, **(dict(embed_dims=48, depth=2, num_heads=4) | options)).eval()


def test_partitions_are_nested_and_the_first_is_that_of_the_tokens():
    model = backbone(out_indices=(1,), seed_skip=True, region_levels=3)
    images = torch.rand(2, 3, 64, 60)
    (dense, seeds, regions), tokens = model.forward_with_tokens(images)
    assert dense.shape == (2, 48, 16, 15) and seeds.shape == (2, 32, 16, 15)
    assert [len(level.unique()) for level in regions[0]] == [8, 2, 1]
    assert torch.equal(regions[1, 0], tokens[1].output.token_map()[0])
    for row in range(2):
        pairs = torch.stack([regions[row, 0].flatten(), regions[row, 1].flatten()]).unique(dim=1)
        assert pairs.shape[1] == 8
    # The map holds each seed's token after the last block.
    assert torch.allclose(dense[0, :, 5, 7], tokens[0].embeddings[regions[0, 0, 5, 7]], atol=1e-5)


def test_images_with_few_valid_seeds_have_few_tokens():
    valid = torch.ones(3, 64, 64, dtype=torch.bool)
    valid[1] = False
    valid[1, :8, :4] = True  # two seeds
    valid[2] = False
    model, images = backbone(), torch.rand(3, 3, 64, 64)
    tokens, of_images = model.forward_with_tokens(images, facts=ImageFacts(valid))
    assert [one.num_tokens for one in of_images] == [8, 2, 1]
    assert torch.allclose(tokens[0], model(images[:1])[0], atol=1e-5)
    assert tokens.isfinite().all()


def test_regions_that_nobody_has_are_refused():
    with pytest.raises(ConfigError, match="region_levels needs regions"):
        backbone(out_indices=(1,), region_levels=1)
    fast = dict(type="hook.HookTokenizer", preset="fast", img_size=64)
    model = dict(type="hook.TokenViT", tokenizer=fast, embed_dims=48, depth=1, num_heads=4)
    head = dict(type="hook.LinearClsHead", num_classes=3, in_channels=48)
    with pytest.raises(ConfigError, match="region_loss needs a tokenizer with regions"):
        MODELS.build(
            dict(
                type="hook.TokenClassifier",
                backbone=model,
                head=head,
                region_loss=dict(type="hook.RegionLoss"),
            )
        )
    with pytest.raises(ConfigError, match=r"region_loss.loss_weight"):
        RegionLoss(loss_weight=0)
    with pytest.raises(ConfigError, match=r"region_loss.share(.|\n)*above 0 and at most 1"):
        RegionLoss(share=1.5)
    objects = backbone()
    with pytest.raises(ConfigError, match="learns from masks, and the samples have none"):
        RegionLoss()(objects.tokenizer, objects.forward_with_tokens(torch.rand(1, 3, 32, 32))[1])


HEAD = dict(
    channels=6,
    num_classes=3,
    align_corners=False,
    dropout_ratio=0,
    loss_decode=dict(type="hook.CrossEntropyLoss"),
)


def head(**options):
    torch.manual_seed(0)
    return RegionContextHead([4, 5], token_channels=7, **HEAD, **options).eval()


def test_context_starts_at_zero_and_then_is_equal_within_a_region():
    levels = torch.rand(2, 4, 8, 8), torch.rand(2, 5, 4, 4)
    token_map = torch.rand(2, 7, 8, 8)
    regions = torch.arange(64).reshape(1, 1, 8, 8).expand(2, 2, -1, -1) // torch.tensor(
        [16, 32]
    ).reshape(1, 2, 1, 1)
    model = head(region_levels=2)
    plain = SegFormerStyleHead([4, 5], **HEAD)
    plain.load_state_dict(model.state_dict(), strict=False)
    inputs = (*levels, token_map, regions)
    before = model(inputs)
    assert torch.equal(before, plain.eval()(levels))
    for context in model.contexts:
        torch.nn.init.normal_(context[-1].weight)
    added = model(inputs) - before
    for row in range(2):
        for region in range(4):
            inside = added[row][:, regions[row, 0] == region]
            assert torch.allclose(inside, inside[:, :1].expand_as(inside), atol=1e-4)
    assert added.flatten(2).std(-1).min() > 1e-3


def test_context_equals_its_definition():
    """Region by region, for each of three nested partitions of two images of different numbers."""
    model = head(region_levels=3)
    for context in model.contexts:
        torch.nn.init.normal_(context[-1].weight)
    levels, token_map = (torch.rand(2, 4, 8, 8), torch.rand(2, 5, 4, 4)), torch.rand(2, 7, 8, 8)
    hierarchy = merge_seeds(torch.rand(2, 8, 8, 3))
    partitions = torch.stack([hierarchy.cut(torch.tensor(n)) for n in ([9, 7], [4, 3], [1, 2])], 1)
    partitions[1, :, :2] = -1
    features = model.fused(levels)
    wanted = features.clone()
    for row in range(2):
        both = torch.cat([features[row], token_map[row]])
        for level, context in enumerate(model.contexts):
            for region in set(partitions[row, level].unique().tolist()) - {-1}:
                inside = partitions[row, level] == region
                wanted[row][:, inside] += context(both[:, inside].mean(1))[:, None]
    found = model((*levels, token_map, partitions))
    assert torch.allclose(found, model.cls_seg(wanted), atol=1e-4)


def test_seeds_in_no_region_neither_give_nor_get_context():
    model = head()
    torch.nn.init.normal_(model.contexts[0][-1].weight)
    levels, token_map = (torch.rand(1, 4, 8, 8), torch.rand(1, 5, 4, 4)), torch.rand(1, 7, 8, 8)
    regions = torch.zeros(1, 1, 8, 8, dtype=torch.int64)
    regions[..., 5:] = -1
    before = model((*levels, token_map, torch.full_like(regions, -1)))
    added = model((*levels, token_map, regions)) - before
    assert added[..., :5].abs().min() > 0 and not added[..., 5:].any()
    token_map[..., 5:] += 100
    changed = model((*levels, token_map, regions)) - before
    assert torch.equal(changed, added)


def test_loss_of_regions_equals_its_definition():
    """Pair by pair, for labels that are constant in each seed but for one ignored."""
    model = backbone()
    images = torch.rand(1, 3, 24, 32)
    tokens = model.forward_with_tokens(images)[1]
    seed_labels = torch.randint(0, 3, (6, 8), generator=torch.Generator().manual_seed(3))
    seed_labels[2, 3] = 255
    labels = seed_labels.repeat_interleave(4, 0).repeat_interleave(4, 1)[None]
    loss = RegionLoss(loss_weight=2.0, different_weight=5.0)
    groups = model.tokenizer.group(tokens[0].seeds.features)[0]
    total = weights = 0.0
    for down, right in _OFFSETS:
        for row in range(6):
            for column in range(8):
                other = row + down, column + right
                if not (0 <= other[0] < 6 and 0 <= other[1] < 8):
                    continue
                pair = seed_labels[row, column], seed_labels[other]
                if 255 in pair:
                    continue
                same = float(pair[0] == pair[1])
                logit = loss.margin - (groups[row, column] - groups[other]).square().sum()
                weight = 1.0 if same else 5.0
                target = torch.tensor(same)
                total += weight * float(F.binary_cross_entropy_with_logits(logit, target))
                weights += weight
    assert float(loss(model.tokenizer, tokens, labels)) == pytest.approx(2 * total / weights, 1e-4)


def test_shares_of_labels_ignore_what_is_unknown():
    labels = torch.full((1, 4, 7), 255)
    labels[0, :, :2], labels[0, :2, 4:7] = 1, 0
    shares, known = label_shares(labels, (1, 2), 4, 255)
    assert shares[0, :, 0].tolist() == [[0, 1], [1, 0]]
    assert known.tolist() == [[[True, False]]]  # 6 of 16 pixels are not half of a cell


def test_without_labels_regions_of_colour_are_the_objects(monkeypatch):
    model, images = backbone(), torch.rand(1, 3, 64, 64)
    tokens = model.forward_with_tokens(images)[1]
    monkeypatch.setattr(torch, "rand", lambda shape: torch.tensor(0.5))
    without = RegionLoss(from_labels=False)(model.tokenizer, tokens)
    colours = tokens[0].seeds.colours.permute(0, 2, 3, 1)
    objects = merge_seeds(colours).cut(8)  # of 256 seeds, between 4 and 16
    labels = objects.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.allclose(without, RegionLoss()(model.tokenizer, tokens, labels))


@pytest.mark.parametrize("from_labels", [True, False])
def test_a_share_of_the_images_is_the_first_ones(from_labels, monkeypatch):
    model, images = backbone(), torch.rand(5, 3, 64, 64)
    labels = torch.randint(3, (5, 64, 64))
    monkeypatch.setattr(torch, "rand", lambda shape: torch.tensor(0.5))
    share = RegionLoss(from_labels=from_labels, share=0.25)
    first = model.forward_with_tokens(images[:2])[1]
    expected = RegionLoss(from_labels=from_labels)(model.tokenizer, first, labels[:2])
    found = share(model.tokenizer, model.forward_with_tokens(images)[1], labels)
    assert torch.allclose(found, expected, atol=1e-6)


def test_training_brings_seeds_of_an_object_together():
    torch.manual_seed(0)
    model, loss = backbone(), RegionLoss()
    images = torch.zeros(1, 3, 32, 32)
    images[..., 16:] = 0.3
    images += 0.6 * torch.rand(1, 3, 32, 32)
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[..., 16:] = 1
    optimizer = torch.optim.Adam([*model.tokenizer.parameters(), *loss.parameters()], lr=3e-3)
    losses = []
    for _ in range(20):
        value = loss(model.tokenizer, model.forward_with_tokens(images)[1], labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value))
    assert losses[-1] < 0.7 * losses[0]
    halves = model.forward_with_tokens(images, 2)[1][0].output.token_map()[0]
    assert (halves == torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])).all()


@pytest.mark.parametrize("name", ["banepa-256", "eurosat-2k-64"])
def test_models_of_the_configs_train_and_predict(repo, name, seg_samples):
    depth = 2 if "banepa" in name else 6
    cfg = Config.fromfile(repo / f"configs/hook/hook-objects_vit-192x{depth}_{name}.py")
    cfg.model.backbone.tokenizer.num_tokens = 8
    model = build_model(cfg)
    images = torch.rand(2, 3, 64, 64)
    if "banepa" in name:
        samples = seg_samples(classes=2)
    else:
        samples = [ClsDataSample(gt_label=i) for i in range(2)]
    losses = model.loss(images, samples)
    assert losses["loss_regions"] > 0
    total, _ = model.parse_losses(losses)
    total.backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing
    for sample in model.eval().predict(images):
        assert sample.tokens.num_tokens == 8
