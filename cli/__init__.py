"""The `tokenmill` command: what a person runs on one machine."""
