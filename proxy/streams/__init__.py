"""Event logs: the events of a response kept, and told again to whoever follows or resumes a stream.

Imports `services` and all below it.
"""
