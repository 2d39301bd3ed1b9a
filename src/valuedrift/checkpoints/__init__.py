"""Which folders are checkpoints of what, and what they lack to be loaded."""
