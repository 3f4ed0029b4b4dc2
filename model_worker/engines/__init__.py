"""Which engines there are, and the arithmetic one that needs no model."""
