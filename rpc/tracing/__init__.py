"""Who asked on whose behalf, and where the time of a request went."""
