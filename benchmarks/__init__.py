"""Measurements: `performance` is what `make bench` runs; `costs` and `endurance` are run one by one."""
