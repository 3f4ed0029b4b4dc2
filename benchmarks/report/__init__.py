"""What was measured, as values, as text, as a plot."""
