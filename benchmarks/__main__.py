"""`python -m benchmarks`: the measurements that need nothing but this machine."""

from __future__ import annotations

import asyncio

from benchmarks import turns

asyncio.run(turns.main())
