"""Tokenizers and quantizers from configs."""

import pytest

from hook.errors import ConfigError
from hook.models.parts import build_part
from hook.quantizers import LookupFreeQuantizer
from hook.registry import QUANTIZERS


@pytest.mark.parametrize(
    "kind", ["LookupFreeQuantizer", "hook.LookupFreeQuantizer", LookupFreeQuantizer]
)
def test_a_part_is_named_with_and_without_scope_or_is_a_class(kind):
    assert build_part(QUANTIZERS, dict(type=kind, bits=5), "model.quantizer").codebook_size == 32


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (dict(type="hook.Nothing"), "model.quantizer.type: unknown quantizer 'hook.Nothing'"),
        (dict(bits=3), "unknown quantizer None"),
        (dict(type="LookupFreeQuantizer", bits=4, codes=3), "unexpected keyword"),
        (dict(type="LookupFreeQuantizer", bits=4, factors=(1, 2)), "add up to 4"),
    ],
)
def test_what_is_wrong_is_named(cfg, message):
    with pytest.raises(ConfigError, match=message):
        build_part(QUANTIZERS, cfg, "model.quantizer")
