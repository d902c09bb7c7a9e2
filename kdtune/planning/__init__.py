"""A sweep as distinct runs, who waits for whom, what it costs."""
