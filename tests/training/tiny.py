"""Tiny random models and pairs."""
