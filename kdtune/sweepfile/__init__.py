"""A sweep file as validated points, with all that is wrong with it at once."""
