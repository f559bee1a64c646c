"""The command line: the server and its workers here, all other commands in `commands`.

Imports everything; nothing imports it.
"""
