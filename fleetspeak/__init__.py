"""Fleetspeak on Twisted: the message fabric between a fleet of machines and the people who watch over it."""

__version__ = "0.1.0"
