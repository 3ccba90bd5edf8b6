"""A model in this process writes tokens: two batching loops over two decoders."""
