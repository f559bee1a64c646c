"""Settings: the tree with its defaults, where they come from, what must fit together, their documentation.

Imports nothing else of this package.
"""
