"""What is minimised. `loss` says what every loss is, `views` what it may look at."""
