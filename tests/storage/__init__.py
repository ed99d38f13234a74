"""Storages on real servers; `make storage-test`."""
