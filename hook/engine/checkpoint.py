"""The checkpoint functions of :mod:`hook.checkpoint`, under the name that runs know them by."""

from hook.checkpoint import (
    check_state_dict,
    find_resumable,
    get_state_dict,
    load_checkpoint,
    load_weights,
    use_safe_loading,
)

__all__ = [
    "check_state_dict",
    "find_resumable",
    "get_state_dict",
    "load_checkpoint",
    "load_weights",
    "use_safe_loading",
]
