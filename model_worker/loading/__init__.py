"""What can be known of a model folder and of this machine before anything heavy is loaded. No torch."""
