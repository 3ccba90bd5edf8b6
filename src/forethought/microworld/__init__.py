"""The embedded default world: small tasks with known answers, a verifier and a seed model."""
