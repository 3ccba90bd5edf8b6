"""Judges that are reward models: one score for each conversation."""
