"""Recipes made from a model, a file of prompts and the name of a judge."""
