"""`make bench`: Branchline beside a bare relay and installed peers, and the page that is written of it."""
