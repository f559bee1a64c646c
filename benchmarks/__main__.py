"""`python -m benchmarks`: what `make bench` runs."""

from benchmarks.performance.run import main

main()
