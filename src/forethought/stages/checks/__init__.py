"""What is tried before a run samples anything."""
