"""What surrounds every handler, and what they share: middlewares, CORS, bodies, answers, delivery.

Imports `auth`, `context`, `relay`, and what is below these.
"""
