"""Configs of these tests name classes of HOOK without their scope."""

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def scope():
    """Look classes up in HOOK, whatever default scope other tests have set."""
    with DefaultScope.overwrite_default_scope("hook"):
        yield
