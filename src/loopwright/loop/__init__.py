"""Training and evaluation: the loops themselves, and what is worked out around them."""
