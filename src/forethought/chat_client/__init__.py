"""The client of OpenAI-compatible chat endpoints that samplers, judges and the proxy share."""
