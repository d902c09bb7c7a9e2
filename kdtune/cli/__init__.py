"""What is typed: a module per verb, and what they share of the screen."""
