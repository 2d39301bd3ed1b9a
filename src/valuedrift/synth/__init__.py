"""Synthetic preference pairs with a controlled value gap."""
