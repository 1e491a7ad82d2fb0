"""Rasters and vectors: opening, validity, bands, areas, styles, arrays. No model, no MMEngine."""
