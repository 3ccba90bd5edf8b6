"""Every chart of the page, and the few shapes that they are made of."""
