"""Maintenance of the whole store: sweeping, purging an owner, auditing every invariant; its condition and its risks.

Imports the subjects of `storage` (conversations, items, …) and what lies below them; nothing of the archive.
"""
