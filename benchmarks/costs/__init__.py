"""What a single thing costs Branchline alone. Each is a program of its own."""
