"""The `branchline` command: makes sure that `proxy` and `storage` are its own packages, then runs its command line.

Both names are common. In an environment that has other packages of these names, Python may import those instead.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).resolve().parent


def main() -> None:
    """Run the command that the process was started with, and exit."""
    strangers = [f"{name} ({place})" for name, place in map(_locate, ("proxy", "storage")) if place != HOME / name]
    if strangers:
        sys.exit(
            f"branchline: another package has the name of one of Branchline's: {', '.join(strangers)}. Install it"
            " in an environment of its own: pipx install branchline, or uv tool install branchline"
        )
    from proxy.cli.main import main as run

    run()


def _locate(name: str) -> tuple[str, Path | None]:
    """Return a package's name, and the folder that it would be imported from; None if it is not found or no package."""
    spec = find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    return name, Path(places[0]).resolve() if places else None


if __name__ == "__main__":
    main()
