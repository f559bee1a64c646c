"""WebSocket mode: many turns on one connection, in lanes.

Imports `turns` and all below it.
"""
