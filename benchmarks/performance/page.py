from pathlib import Path
DATA=Path("docs/performance")
def publish(x): pass
