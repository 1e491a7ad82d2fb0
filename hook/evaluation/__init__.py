"""Metrics for scene classification, segmentation and the homogeneity of tokens."""
