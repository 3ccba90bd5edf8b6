"""The loop over all stages, and its parts alone: one stage on files, one measure."""
