"""`Idempotency-Key` and retries: carried out once, answered as often as it is asked.

Imports `turns` and all below it.
"""
