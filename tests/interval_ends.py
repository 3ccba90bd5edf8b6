"""The ends of an interval that a figure must have."""

from forethought.types import EvaluationResult


def ends_of(result: EvaluationResult) -> tuple[float, float]:
    """Both ends; equal values on an open scale would have none."""
    assert result.interval is not None
    return result.interval
