"""Measurements: `performance` is what `make bench` runs; `costs`, `endurance`, `faults` and `soak` are run one by one."""
