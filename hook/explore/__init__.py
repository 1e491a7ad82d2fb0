"""A page in the browser to label token regions and get a map: ``hook explore``.

It is served on this machine. Needs the extra ``hook-rs[explore]``.
"""
