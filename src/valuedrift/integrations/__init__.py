"""Other people's training: finding the checkpoints it left."""
