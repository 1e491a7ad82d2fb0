"""Convert an official HOOK checkpoint (GeoX-Lab/Hook) into one of ours.

Keys are renamed, tensors stay as they are. The result loads with ``tools/test.py`` or ``load_from``
in a config of the same sizes.
"""

from hook2reference import convert

from hook.models.converters import reference_to_hook

if __name__ == "__main__":
    convert(__doc__, reference_to_hook)
