"""Token regions of whole scenes: polygons with statistics and embeddings, search, classes.

Independent of the model, which is passed as a function from windows to tokens.
"""

from hook.regions.extraction import RegionReport, extract_regions
from hook.regions.few_labels import classify_regions
from hook.regions.index import RegionIndex
from hook.regions.plan import RegionRequest, TokenBatch

__all__ = [
    "RegionIndex",
    "RegionReport",
    "RegionRequest",
    "TokenBatch",
    "classify_regions",
    "extract_regions",
]
