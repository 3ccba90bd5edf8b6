"""Judges that are chat models: what they are asked, their verdicts, and scores from these."""
