"""A judge of the user's own: a class or function that gives an object with a judge's members."""

from __future__ import annotations

from forethought.config import CustomJudge
from forethought.judging.base import Judge
from forethought.judging.import_path import import_attribute

MEMBERS = ("name", "floor", "judge", "__enter__", "__exit__")


def load_custom(config: CustomJudge) -> Judge:
    """What `import_path` names, called with `options`.

    Raises: ValueError if it cannot be imported or called, or gives no judge.
    """
    factory = import_attribute(config.import_path, "judge.import_path")
    try:
        judge = factory(**config.options)
    except TypeError as error:
        raise ValueError(
            f"judge.options: {config.import_path} cannot be called with {config.options}: {error}; "
            "give it the options it takes"
        ) from error
    if not isinstance(judge, Judge):
        lacking = [member for member in MEMBERS if member not in dir(judge)]
        raise ValueError(
            f"judge.import_path: {config.import_path} gives a {type(judge).__name__} without "
            f"{', '.join(lacking)}; a judge has {', '.join(MEMBERS)} "
            "(see forethought.judging.base.Judge)"
        )
    return judge
