"""What is measured of a policy besides its test score, one measure a file."""
