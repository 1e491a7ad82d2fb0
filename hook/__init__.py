"""HOOK: homogeneous visual tokenizer for remote-sensing images.

Importing the package is cheap; the parts that need PyTorch, MMEngine or rasterio load when used.

Reference:
    Shao et al., "Homogeneous tokenizer matters: Homogeneous visual tokenizer for remote sensing
    image understanding", ISPRS J. Photogramm. Remote Sens. 218 (2024) 294-310.
"""

__version__ = "0.1.0"
