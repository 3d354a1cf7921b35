"""Helpers for trying out the connector."""
