"""Convert an official HOOK checkpoint (GeoX-Lab/Hook) to the format of this package.

Keys are renamed, tensors are unchanged. Load the result with ``tools/test.py`` or ``load_from`` in
a config of the same sizes.
"""

from hook2reference import convert

from hook.models.converters import reference_to_hook

if __name__ == "__main__":
    convert(__doc__, reference_to_hook)
