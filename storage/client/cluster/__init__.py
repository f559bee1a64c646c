"""Redis Cluster: which node has which slot, and a channel that sends each command there.

Imports the channels to a single server from `storage.client`, and redis-py; nothing else knows that slots exist.
"""
