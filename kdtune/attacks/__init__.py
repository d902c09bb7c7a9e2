"""Attacks on networks: a module each. They know networks and numbers, and nothing else of kdtune but randomness."""
