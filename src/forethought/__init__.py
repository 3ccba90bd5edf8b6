"""forethought: train a chat model to think before it answers, and serve it with thoughts hidden."""

__version__ = "0.1.0"
