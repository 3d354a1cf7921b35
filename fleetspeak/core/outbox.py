"""Decisions about messages on their way to the server: limits, order, and what is still unconfirmed."""

from __future__ import annotations
