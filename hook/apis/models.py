"""The models that have a name, for notebooks and commands."""

from hook.zoo import Entry, download_model, list_models

__all__ = ["Entry", "download_model", "list_models"]
