"""Export and import of whole conversations: what a backup is read from and written to.

Imports the subjects of `storage` (conversations, items, …) and what lies below them; nothing of maintenance.
"""
