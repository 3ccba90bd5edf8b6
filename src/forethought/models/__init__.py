"""Models: loading them, what they read and write, and what stays loaded."""
