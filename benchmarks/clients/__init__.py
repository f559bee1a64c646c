"""Real clients that keep their history themselves: the same talk by each, and what Branchline has recorded of it."""
