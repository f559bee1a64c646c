"""Servers that a measurement starts: the scripted model server, the bare relay, the peers."""
