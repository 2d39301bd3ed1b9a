"""Four extensions of valuedrift, one of each kind."""
