"""What the page shows, as numbers and texts read from sealed stages."""
