"""What surrounds every handler, and what they share: middlewares, CORS, bodies, content codings, delivery.

Imports `auth`, `context`, `relay`, and what is below these.
"""
