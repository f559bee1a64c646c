"""The endpoints, one file a resource: read the request, make one call, shape the answer.

Imports everything below; resources import of each other only what they share: `rendering`, `item_input`, `turns`.
"""
