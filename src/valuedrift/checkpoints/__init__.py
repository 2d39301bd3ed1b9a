"""Find checkpoints in folders, hub ids and APIs, and complete those that cannot be loaded."""
