"""The client's communicators: how it keeps contact with its servers."""
