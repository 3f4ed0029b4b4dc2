"""One module per question that the bench answers."""
