"""Background responses: accepted, queued, and run by a worker.

Imports `turns` and all below it.
"""
