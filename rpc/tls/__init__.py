"""TLS on every hop: who a service is, whom it lets in, and how it calls others; files that change are read again."""
