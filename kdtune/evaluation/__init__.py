"""What is measured of a finished network. A module per kind; `evaluator` says what every evaluator is."""
