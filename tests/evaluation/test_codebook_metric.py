"""Use of codes."""

import pytest
import torch

from hook.errors import ConfigError, DataError
from hook.evaluation.codebook_metric import CodebookMetric
from hook.structures import CodecDataSample


def evaluate(*codes, sizes, kind="single", valid=None):
    metric = CodebookMetric()
    for each in codes:
        meta = dict(codebook_sizes=sizes, indices_kind=kind)
        sample = CodecDataSample(codes=each, metainfo=meta)
        if valid is not None:
            sample.valid_mask = valid
        metric.process({}, [sample.to_dict()])
    return metric.compute_metrics(metric.results)


def test_uniform_codes_have_the_perplexity_of_their_number():
    codes = torch.arange(16).reshape(4, 4)
    scores = evaluate(codes, codes, sizes=(64,))
    assert scores == {"use": 25, "perplexity": 16, "bits": 4, "positions": 32}


def test_depths_are_counted_by_themselves():
    codes = torch.stack([torch.arange(16).reshape(4, 4), torch.zeros(4, 4).long()], dim=-1)
    scores = evaluate(codes, sizes=(16, 16), kind="residual")
    assert scores["use.depth1"] == 100 and scores["use.depth2"] == 6.25
    assert scores["perplexity.depth1"] == 16 and scores["perplexity.depth2"] == 1
    assert scores["bits"] == 4
    assert "use.factor2" in evaluate(codes, sizes=(16, 4), kind="product")


def test_bits_under_a_model_are_added_up_over_the_codes_of_a_position():
    metric, valid = CodebookMetric(), torch.ones(8, 8, dtype=torch.bool)
    valid[:4] = False
    for bits in (torch.full((2, 2, 2), 3.0), torch.full((2, 2, 2), 5.0)):
        bits[0] = 100.0  # not valid
        meta = dict(codebook_sizes=(4, 4), indices_kind="residual")
        codes = torch.zeros(2, 2, 2, dtype=torch.long)
        sample = CodecDataSample(codes=codes, bits=bits, valid_mask=valid, metainfo=meta)
        metric.process({}, [sample.to_dict()])
    assert metric.compute_metrics(metric.results)["model_bits"] == (6 + 10) / 2


def test_positions_without_data_are_not_counted():
    codes = torch.tensor([[0, 1], [2, 3]])
    valid = torch.zeros(16, 16, dtype=torch.bool)
    valid[3, 3] = valid[15, 2] = True
    scores = evaluate(codes, sizes=(4,), valid=valid)
    assert scores["positions"] == 2 and scores["perplexity"] == 2


def test_codes_of_valid_patches_all_count():
    valid = torch.zeros(16, 16, dtype=torch.bool)
    valid[:, :8] = True  # two of four patches, which alone have codes
    meta = dict(codebook_sizes=(4,), indices_kind="single")
    sample = CodecDataSample(codes=torch.tensor([[1, 2]]), valid_mask=valid, metainfo=meta)
    metric = CodebookMetric()
    metric.process({}, [sample.to_dict() | dict(places=torch.zeros(2, 4))])
    assert metric.compute_metrics(metric.results)["positions"] == 2


def test_positions_cover_the_padded_image():
    valid = torch.zeros(72, 100, dtype=torch.bool)
    valid[:, :56] = True  # seven positions of eight pixels, of thirteen that cover 104
    codes = torch.zeros(9, 13, dtype=torch.long)
    meta = dict(codebook_sizes=(4,), indices_kind="single", padded_shape=(72, 104))
    metric = CodebookMetric()
    metric.process({}, [CodecDataSample(codes=codes, valid_mask=valid, metainfo=meta).to_dict()])
    assert metric.compute_metrics(metric.results)["positions"] == 9 * 7


def test_what_has_no_codes_is_refused():
    with pytest.raises(ConfigError, match="without codes"):
        CodebookMetric().process({}, [CodecDataSample(image=torch.zeros(1, 2, 2)).to_dict()])
    with pytest.raises(DataError, match="outside its codebook"):
        evaluate(torch.full((2, 2), 4), sizes=(4,))
