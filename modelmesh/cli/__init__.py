"""The `modelmesh` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process."""
    from modelmesh.cli.app import app  # here, so that importing the package stays cheap

    app()
