"""Conversations of apps that keep no ids: their keys, what they resend as digests, what is to be recorded. Pure.

Imports `protocol`, `storage`.
"""
