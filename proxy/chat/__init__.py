"""Chat Completions as items, and items as messages. Pure.

Imports `protocol`, `storage`.
"""
