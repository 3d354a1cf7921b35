"""A server service that writes each message to a file, as a line of JSON."""
