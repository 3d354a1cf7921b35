"""Finds out why a client does not connect: each step of a contact, by the client's own code, and what to do next."""
