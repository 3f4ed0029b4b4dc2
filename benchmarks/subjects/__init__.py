"""What is measured: each subject lives in a process of its own."""
