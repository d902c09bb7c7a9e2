"""What is wrong with where a sweep would run, found before it costs anything."""
