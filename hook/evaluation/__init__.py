"""Metrics for classification, segmentation, the homogeneity of tokens, and codecs."""
