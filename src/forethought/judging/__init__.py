"""Judges: the conversation and bare responses in, one score per response out, never a thought."""
