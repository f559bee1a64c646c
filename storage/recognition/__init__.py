"""Recognition in the store: turns of apps that keep no ids, and the digests of histories that lead to them.

Imports the subjects of `storage` and what lies below them.
"""
