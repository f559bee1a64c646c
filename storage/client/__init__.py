"""The Redis client: connections, the channel that commands go over, key names, and the calls of the Lua scripts.

Imports `storage`'s records, errors and partitions, and redis-py; nothing of what calls the scripts.
"""
