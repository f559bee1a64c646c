"""Work beside requests: periodic tasks, back-off, renewed locks, reclaiming.

Imports `config`, `storage`.
"""
