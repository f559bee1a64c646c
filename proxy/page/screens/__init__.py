"""Screens: handlers that show something, and only read.

Imports `page.content`, `layout` and `renderer`; no action.
"""
