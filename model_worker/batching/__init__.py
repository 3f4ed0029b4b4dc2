"""Many rows at once: who takes part in a step, where its K/V stand, the one thread that owns it all. No torch."""
