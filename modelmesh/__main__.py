"""`python -m modelmesh` is the `modelmesh` command."""

from __future__ import annotations

from modelmesh.cli import main

if __name__ == "__main__":
    main()
