"""A policy that is sampled by a stage, and sampled again where its output does not parse."""
