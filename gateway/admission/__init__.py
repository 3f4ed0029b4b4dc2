"""Who is worked on next, who waits and who is refused: policy without a clock, and the gate that acts on it."""
