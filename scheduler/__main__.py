"""`python -m scheduler`: one scheduler."""

from __future__ import annotations

import sys

from scheduler.options import parse

if __name__ == "__main__":
    options = parse(sys.argv[1:])  # before the import of everything else: --help is quick

    from scheduler.app import run

    sys.exit(run(options))
