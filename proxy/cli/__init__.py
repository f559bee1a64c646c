"""The command line: `branchline serve`, `check`, `gc`, `fsck`, `purge`, `export`, `import`.

Imports everything; nothing imports it.
"""
