"""What is asked, how it is sent, and what was heard."""
