"""Keys, certificates, TLS contexts for both sides, signatures of service configurations."""
