"""`python -m scheduler`: one scheduler."""

from __future__ import annotations

import sys

from scheduler.options import parse
from shared_state.lean import lean_imports

if __name__ == "__main__":
    options = parse(sys.argv[1:])  # before the import of everything else: --help is quick

    with lean_imports():
        from scheduler.app import run

    sys.exit(run(options))
