"""Judges that are functions, such as the check of a final number."""
