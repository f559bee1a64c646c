"""The commands that work on a store, or look at a configuration: a module each, and what they print with.

Imports everything but the server.
"""
