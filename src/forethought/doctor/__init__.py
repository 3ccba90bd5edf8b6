"""A recipe's first minutes, and what they say would go wrong in its hours.

`trial.py` runs the recipe's own stages on a few prompts, `evidence.py` reads what they have sealed,
`output_checks.py`, `judge_checks.py` and `run_checks.py` hold it against `limits.py`, and
`examination.py` puts everything together. docs/doctor.md lists the checks.
"""
