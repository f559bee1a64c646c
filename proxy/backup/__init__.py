"""A conversation as a file: the format, and a check of a file before anything of it is written. Pure.

Imports `protocol`, `storage`.
"""
