"""How every service of ours is served and called, and what the contract's values mean in Python."""
