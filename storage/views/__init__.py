"""What people look at: the shapes of graphs, windows and listings, and the watching of what changes.

Imports `client` and all below it.
"""
