"""Listed models, and published models in one file."""

from hook.zoo.listing import Entry, download_model, find_model, list_models
from hook.zoo.published import SUFFIX, PublishedModel, read_published, write_published

__all__ = [
    "SUFFIX",
    "Entry",
    "PublishedModel",
    "download_model",
    "find_model",
    "list_models",
    "read_published",
    "write_published",
]
