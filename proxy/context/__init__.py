"""What the model is shown: history and input put together, compacted, truncated, counted, spliced. Pure.

Imports `protocol`, `storage`.
"""
