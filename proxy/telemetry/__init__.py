"""Telemetry: metrics, traces and the log line of a request. All else only calls it.

Imports `protocol`, `config`, `runtime` and the storage package's public names; never who calls it.
"""
