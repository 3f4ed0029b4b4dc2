"""Who may call the gateway, and for what: keys of a file, and tokens (JWT) that a known issuer has signed."""
