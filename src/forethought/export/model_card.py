"""The card of an exported policy. Every figure in it is read from the run; none is typed by hand.

The template is `templates/model_card.md`; this module gives it the facts and the words for them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from forethought.export import run_facts
from forethought.judging.describe import score_of
from forethought.models.loading import MICROWORLD, load_tokenizer
from forethought.models.marker_tokens import marker_tokens
from forethought.runs.comparison import claim_of
from forethought.runs.layout import StageRef
from forethought.runs.policies import Which
from forethought.runs.summary import margin_kept
from forethought.storage.files import sha256_file

TEMPLATES = Path(__file__).parent / "templates"


def model_card(chosen: StageRef, which: Which, folder: Path) -> str:
    """The text of `README.md` for a policy whose other files are in `folder` already.

    `which` was asked for; the best of several by one measurement is a selected figure.
    """
    recipe, arm, policy = chosen.recipe, chosen.arm, chosen.index
    evaluated = run_facts.evaluations(recipe)
    here = [row for row in evaluated if row["arm"] == arm and row["policy"] == policy]
    form = chosen.thought_format
    claim = claim_of(recipe)
    attempts = run_facts.attempts(recipe)
    return (
        environment()
        .get_template("model_card.md")
        .render(
            front=front_matter(_front(chosen)),
            run=recipe.run.resolve().name,
            recipe=recipe,
            arm=arm,
            policy=policy,
            which=which,
            format=form,
            special_markers=bool(marker_tokens(load_tokenizer(str(folder)), form.markers)),
            needs_opening=bool(form.thought_starts_after) and not form.thought_marker_optional,
            seed=run_facts.seed_name(recipe),
            toy=recipe.model.path == MICROWORLD,
            judge=run_facts.judge_name(recipe),
            relative=recipe.judge.is_relative,
            score_of=score_of(recipe),
            evaluated=evaluated,
            own=here[0] if here else None,
            kept=margin_kept(recipe, arm, policy),
            difference=claim.line() if claim.difference is not None else None,
            measures=run_facts.measures(recipe, arm, policy),
            sources=run_facts.source_names(recipe),
            iterations=run_facts.iterations(recipe, arm, policy),
            attempts=attempts,
            versions=attempts[-1]["versions"] | {"python": attempts[-1]["python"]},
            digests=list(run_facts.digests(recipe, arm, policy)),
            weights=[
                (path.name, sha256_file(path)) for path in sorted(folder.glob("*.safetensors"))
            ],
        )
    )


def environment() -> Environment:
    """The environment of the cards' templates: Markdown, so nothing is escaped for HTML."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"cell": cell, "figure": figure, "interval": interval, "python": repr}
    return made


def front_matter(fields: dict[str, Any]) -> str:
    """The YAML that stands between a card's two lines of dashes, where the hub reads it."""
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def cell(value: Any) -> str:
    """A text for a cell of a Markdown table: on one line, its bars escaped."""
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|")


def figure(value: float | None, digits: int = 3) -> str:
    """A number, or a word where there is none."""
    return "unknown" if value is None else f"{value:.{digits}f}"


def interval(bounds: list[float] | None, digits: int = 3) -> str:
    """Two bounds as `[0.571, 0.652]`; empty where there are none."""
    return "" if bounds is None else f"[{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


def _front(chosen: StageRef) -> dict[str, Any]:
    recipe = chosen.recipe
    fields: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if run_facts.hub_name(recipe.model.path):
        fields["base_model"] = recipe.model.path
    if (licence := run_facts.seed_licence(recipe)) is not None:
        fields["license"] = licence
    if datasets := run_facts.hub_datasets(recipe):
        fields["datasets"] = datasets
    tags = ["forethought", "dpo", "preference-optimization"]
    if chosen.arm != "direct":
        tags.append("thought-preference-optimization")
    return fields | {"tags": tags}
