"""A client service that answers questions about its machine."""
