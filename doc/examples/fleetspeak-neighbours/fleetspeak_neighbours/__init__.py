"""A notifier between the servers of one machine."""
