"""A run directory: where its stages stand, which policy is meant, its summary, what it keeps."""
