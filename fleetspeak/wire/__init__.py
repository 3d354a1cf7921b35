"""Sans-I/O: bytes to values and back.  Imports no Twisted, reads no clock."""
