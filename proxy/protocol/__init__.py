"""The wire protocol: requests, items, ids, responses, server-sent events, errors. Pure.

Imports `config`, `storage`.
"""
