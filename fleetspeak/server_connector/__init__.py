"""The library that server-side service programs import."""
