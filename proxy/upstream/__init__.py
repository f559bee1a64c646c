"""The model server: its client, headers, errors, what it can and can not do, and one call of it.

Imports `http` and all below it.
"""
