"""The part of the outbox that is on the disk."""
