"""`python -m node`: one router node."""

from __future__ import annotations

import sys

from node.options import parse

if __name__ == "__main__":
    options = parse(sys.argv[1:])  # before the import of everything else: --help is quick

    from node.app import run

    sys.exit(run(options))
