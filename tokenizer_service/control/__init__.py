"""User text never becomes a control token."""
