"""A store that also writes the results of messages to a file."""
