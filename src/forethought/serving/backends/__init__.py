"""What writes a served model's outputs: a model in this process, or a server."""
