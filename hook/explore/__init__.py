"""A page in the browser to label token regions and get a map: ``hook explore``.

It is served on this machine, and needs the extra ``hook-rs[explore]``. In a notebook it is
:class:`hook.explore.notebook.ExplorePage`.
"""
