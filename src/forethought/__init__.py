"""forethought: train a chat model to think before it answers, and hide the thought when it serves."""

__version__ = "0.1.0"
