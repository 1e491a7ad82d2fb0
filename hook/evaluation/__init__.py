"""Metrics for scene classification and segmentation, and of how far tokens are objects."""
