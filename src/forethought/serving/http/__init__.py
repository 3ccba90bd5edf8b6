"""The HTTP side of a served model: requests, keys, limits, replies, a chat page."""
