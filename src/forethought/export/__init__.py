"""What leaves a run: a policy as a model folder with its card, the pairs as a data set."""
