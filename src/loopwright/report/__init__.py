"""What is known of a run, read from its directory, and the page and the figure that show it."""
