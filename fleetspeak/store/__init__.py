"""Durable messages, clients and contacts: the implementations of `fleetspeak.interfaces.IStore`."""
