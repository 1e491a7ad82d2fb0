"""Codebooks with moving averages: vector and residual quantization, anchors, processes."""

import pytest
import torch
from safetensors.torch import save_file
from torch import distributed, multiprocessing

from hook.quantizers import Codebook, ResidualQuantizer, VectorQuantizer


def train(quantizer, latents, steps):
    for _ in range(steps):
        quantizer.train()(latents)
    return quantizer.eval()


def blobs(num=8, each=40, width=4):
    """Latents around well separated centres: (1, num * each, width), and the centres."""
    centres = torch.randn(num, width) * 10
    return (centres[:, None] + torch.randn(num, each, width) * 0.01).flatten(0, 1)[None], centres


@pytest.mark.parametrize("ema", [True, False])
def test_restart_brings_all_codes_into_use(ema):
    torch.manual_seed(0)
    latents, _ = blobs()
    quantizer = VectorQuantizer(8, 4, ema=ema)
    quantizer.codebook.weight.data.add_(1000)
    dead = VectorQuantizer(8, 4, ema=ema, restart=False)
    dead.load_state_dict(quantizer.state_dict(), strict=False)
    used = [len(train(q, latents, 60)(latents).indices.unique()) for q in (quantizer, dead)]
    assert used[0] >= 7 > 4 >= used[1]


def test_codes_in_use_are_kept_where_there_are_more_codes_than_latents():
    """Eight latents of a step for 32 codes: a code in good use has a count of a quarter."""
    torch.manual_seed(0)
    kept = []
    for below in (None, 1.0):
        codebook = Codebook(32, 4, restart_below=below)
        for _ in range(300):
            codes = torch.randint(32, (8,))
            before = codebook.weight.clone()
            codebook.update(codebook.weight[codes], codes)
        kept.append((codebook.weight - before).abs().amax(dim=1).lt(1e-3).float().mean())
    assert kept[0] > 0.9 and kept[1] < 0.5


def test_without_decay_a_step_is_one_of_k_means():
    torch.manual_seed(0)
    latents, table = torch.randn(1, 200, 3), torch.randn(5, 3)
    codebook = Codebook(5, 3, decay=0.0, restart=False, eps=0.0)
    codebook.weight.copy_(table)
    codes = torch.cdist(latents[0], table).argmin(dim=-1)
    codebook.update(latents[0], codes)
    means = torch.stack([latents[0, codes == code].mean(dim=0) for code in range(5)])
    torch.testing.assert_close(codebook.weight, means)


def test_unused_rows_stay_in_place_without_restart():
    quantizer = VectorQuantizer(64, 4, restart=False)
    before = quantizer.codebook.weight.clone()
    latents = quantizer.codebook.weight[:3][None]
    quantizer(latents)
    torch.testing.assert_close(quantizer.codebook.weight, before, rtol=1e-3, atol=0)


def test_gradient_of_a_codebook_without_moving_averages():
    quantizer = VectorQuantizer(8, 4, ema=False, restart=False)
    latents = torch.randn(1, 50, 4, requires_grad=True)
    result = quantizer(latents)
    (grad,) = torch.autograd.grad(result.losses["loss_codebook"], quantizer.codebook.weight)
    code = result.indices[0, 0]
    mine = latents[0][result.indices[0] == code]
    expected = 2 * (quantizer.codebook.weight[code] - mine).sum(dim=0) / latents.numel()
    torch.testing.assert_close(grad[code], expected)


def test_depth_refines_and_the_gradient_is_one():
    torch.manual_seed(0)
    latents = torch.randn(4, 100, 6, requires_grad=True)
    quantizer = train(ResidualQuantizer(32, 6, depth=4), latents, 40)
    result = quantizer(latents)
    errors = [result.terms[f"error_depth{depth}"].item() for depth in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True) and errors[3] < errors[0] / 3
    (grad,) = torch.autograd.grad(result.latents.sum(), latents)
    assert (grad == 1).all()
    sums = quantizer.partial_sums(result.indices)
    assert torch.equal(sums[-1], result.latents)
    assert torch.equal(quantizer.partial_sums(result.indices[..., :2]), sums[:2])


def test_soft_codes_are_a_softmax_of_distances():
    latents = torch.randn(2, 5, 3)
    quantizer = ResidualQuantizer(7, 3, depth=2, shared=False).eval()
    first, second = (codebook.weight for codebook in quantizer.codebooks)
    soft = quantizer.soft_codes(latents, temperature=0.5)
    distances = torch.cdist(latents, first).square()
    torch.testing.assert_close(soft[..., 0, :], (-distances / 0.5).softmax(dim=-1))
    rest = latents - first[distances.argmin(dim=-1)]
    distances = torch.cdist(rest, second).square()
    torch.testing.assert_close(soft[..., 1, :], (-distances / 0.5).softmax(dim=-1))


def test_folded_cells_share_codes():
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 4, 6)
    quantizer = ResidualQuantizer(16, 3, depth=2, fold=(2, 3)).eval()
    result = quantizer(maps.flatten(2).transpose(1, 2), grid=(4, 6))
    assert result.indices.shape == (2, 4, 2)
    plain = ResidualQuantizer(16, 18, depth=2).eval()
    plain.load_state_dict(quantizer.state_dict())
    cells = torch.nn.functional.unfold(maps, (2, 3), stride=(2, 3))  # channels first
    cells = cells.unflatten(1, (3, 6)).transpose(1, 2).flatten(1, 2).transpose(1, 2)
    assert torch.equal(plain(cells).indices, result.indices)
    assert torch.equal(quantizer.decode(result.indices, grid=(4, 6)), result.latents)
    with pytest.raises(ValueError, match=r"fold \(2, 3\) needs the grid"):
        quantizer(torch.zeros(1, 10, 3), grid=(2, 5))


def test_cells_with_an_invalid_position_do_not_teach():
    quantizer = ResidualQuantizer(16, 3, depth=1, fold=(2, 2))
    before = quantizer.codebooks[0].weight.clone()
    valid = torch.ones(1, 4, dtype=torch.bool)
    valid[0, 0] = False
    assert quantizer(torch.randn(1, 4, 3), valid, grid=(2, 2)).losses["loss_commitment"] > 0
    assert torch.equal(quantizer.codebooks[0].weight, before)


# ------------------------------------------------------------------------------------ anchors
def anchored(tmp_path=None, **options):
    torch.manual_seed(3)
    anchor = torch.randn(8, 4, generator=torch.Generator().manual_seed(4))
    given = anchor
    if tmp_path is not None:
        given = str(tmp_path / "anchor.safetensors")
        save_file({"embeddings": anchor}, given)
    return ResidualQuantizer(8, 4, depth=2, anchor=given, **options), anchor


def test_a_weight_of_one_is_the_plain_quantizer():
    latents = torch.randn(2, 30, 4)
    free, _ = anchored(anchor_weight=1.0)
    torch.manual_seed(3)
    plain = ResidualQuantizer(8, 4, depth=2)
    for quantizer in (free, plain):
        torch.manual_seed(5)
        train(quantizer, latents, 5)
    torch.testing.assert_close(free.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_a_pull_moves_rows_and_moving_averages(tmp_path):
    latents = torch.randn(2, 30, 4)
    plain, anchor = anchored()
    pulled, _ = anchored(tmp_path, anchor_weight=0.75, anchor_interval=2)
    for step in (1, 2):
        for quantizer in (plain, pulled):
            torch.manual_seed(step)
            quantizer(latents)
        mine, own = pulled.codebooks[0], plain.codebooks[0]
        if step == 1:
            torch.testing.assert_close(mine.state_dict(), own.state_dict(), rtol=0, atol=0)
    expected = 0.75 * own.weight + 0.25 * anchor
    torch.testing.assert_close(mine.weight, expected)
    # The next step starts from the moving averages, and finds the pulled rows there.
    torch.testing.assert_close(mine.embed_ema / mine.smoothed_counts()[:, None], expected)


def test_a_frozen_table_is_the_anchor_between_pulls_too():
    quantizer, anchor = anchored(anchor_weight=0.0, anchor_interval=20)
    for _ in range(3):
        latents = torch.randn(2, 30, 4)
        found = quantizer.train()(latents)
        assert torch.equal(quantizer.codebooks[0].weight, anchor)
        torch.testing.assert_close(found.latents, quantizer.eval()(latents).latents)


def test_a_weight_of_zero_is_the_anchor():
    quantizer, anchor = anchored(anchor_weight=0.0)
    train(quantizer, torch.randn(2, 30, 4), 3)
    assert torch.equal(quantizer.codebooks[0].weight, anchor)


def test_wrong_anchors_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a tensor or a file, found a list"):
        ResidualQuantizer(8, 4, 2, anchor=[[0.0] * 4] * 8, anchor_weight=0.5)
    (tmp_path / "damaged.safetensors").write_bytes(b"no tensors")
    for name in ("absent", "damaged"):
        quantizer = ResidualQuantizer(
            8, 4, 2, anchor=tmp_path / f"{name}.safetensors", anchor_weight=0.5
        )
        with pytest.raises(ValueError, match=f"anchor: .*{name}.safetensors must be a safetensors"):
            quantizer(torch.randn(1, 9, 4))
    with pytest.raises(ValueError, match="needs an anchor"):
        ResidualQuantizer(8, 4, depth=2, anchor_weight=0.5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        anchored(anchor_weight=1.5)
    quantizer = ResidualQuantizer(8, 4, 2, anchor=torch.zeros(9, 4), anchor_weight=0.5)
    with pytest.raises(ValueError, match=r"must be \(8, 4\), found \(9, 4\)"):
        quantizer(torch.randn(1, 9, 4))


# ------------------------------------------------------------------------------------ processes
def in_process(rank, folder, restart):
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(64, 4, depth=2, restart=restart)
    latents = torch.randn(2, 40, 4)
    torch.manual_seed(rank)  # processes draw differently
    valid = torch.ones(1, 40, dtype=torch.bool)
    valid[0, 20 + 10 * rank :] = False
    quantizer(latents[rank][None], valid)
    quantizer(latents[rank][None], valid & (rank == 1))  # the first has no data
    torch.save(quantizer.state_dict(), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("restart", [True, False])
def test_processes_keep_one_table(tmp_path, restart):
    multiprocessing.spawn(in_process, (str(tmp_path), restart), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    if restart:
        return
    torch.manual_seed(0)
    alone = ResidualQuantizer(64, 4, depth=2, restart=False)
    latents = torch.randn(2, 40, 4)
    alone(torch.cat([latents[0, :20], latents[1, :30]])[None])
    alone(latents[1, :30][None])
    torch.testing.assert_close(first, alone.state_dict())


def test_deferred_tables_change_after_all_depths():
    torch.manual_seed(0)
    latents = torch.randn(2, 40, 4)
    quantizer = ResidualQuantizer(8, 4, depth=3, shared="deferred", restart=False)
    before = quantizer.codebooks[0].weight.clone()
    codes = quantizer.train()(latents).indices
    after = quantizer.codebooks[0].weight.clone()
    quantizer.codebooks[0].weight.copy_(before)
    assert torch.equal(quantizer.eval()(latents).indices, codes) and not torch.equal(before, after)
    quantizer.codebooks[0].average()
    assert torch.equal(quantizer.codebooks[0].weight, after)
    with pytest.raises(ValueError, match="shared"):
        ResidualQuantizer(8, 4, depth=3, shared="later")
