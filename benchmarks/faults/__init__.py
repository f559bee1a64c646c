"""Faults put between the parts on purpose, and what must hold all the same. Linux only."""
