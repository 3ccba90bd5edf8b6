"""Figures about policies, each with its interval and its count."""
