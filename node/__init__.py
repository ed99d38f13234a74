"""A router node: HTTP in, routing, HTTP out."""
