"""From token ids to text as they arrive, and the stop strings that end it."""
