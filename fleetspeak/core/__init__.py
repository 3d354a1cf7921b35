"""Sans-I/O: decisions.  Time and randomness are arguments; imports no Twisted."""
