"""Arena-Hard v0.1: its files, its two games a question, its score."""
