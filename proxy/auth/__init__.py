"""Who calls: the caller, the four modes of telling who that is, and the keys that tokens are verified with.

Imports `protocol`, `config`.
"""
