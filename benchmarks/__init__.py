"""Measurements: `performance` is what `make bench` runs; the others, with `soak`, are run one by one."""
