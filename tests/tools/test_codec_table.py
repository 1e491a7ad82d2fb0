"""codec_table: every row is a config that builds."""

import torch

from hook.engine.configs import load_config, setup_environment
from hook.engine.models import build_model


def test_every_row_builds(load_tool, repo):
    tool = load_tool("analysis_tools/codec_table.py")
    setup_environment()
    widths = {}
    for rows in tool.TABLES.values():
        for name, (config, options) in rows.items():
            path = repo / "configs" / "autoencoders" / f"{config}_s8_eurosat-2k-64.py"
            cfg = load_config(path, options)
            if "backbone" in cfg.model.encoder:
                cfg.model.encoder.backbone.weights = None  # those of an optional package
            with torch.device("meta"):
                widths[name] = build_model(cfg).decoder.in_channels
    assert widths["KL 8"] == widths["VA-VAE 8"] == 8 and widths["none"] == 32
