"""`forethought evaluate win-rate | alpaca-eval | arena-hard | gsm8k | probe | judge`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from forethought.cli.errors import clear_errors
from forethought.progress.harmless import harmless
from forethought.progress.reporter import Reporter

evaluate = typer.Typer(
    help="Measure policies, and judges: every figure with its interval and n.", no_args_is_help=True
)
POLICY = "RUN/ARM/NUMBER, a model folder or hub name"
PolicyWord = Annotated[str, typer.Argument(metavar="POLICY", help=POLICY)]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE...] [KEY=VALUE...]",
        help="Recipe files and overrides, laid over the run's recipe where a run is named",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", help="Folder for answers and figures; a run's policy needs none"),
]
Prompts = Annotated[
    Path | None,
    typer.Option("--prompts", help="JSONL of prompts in place of the run's test set"),
]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON")]


@evaluate.command("win-rate")
def win_rate(
    first: Annotated[str, typer.Argument(metavar="A", help=f"{POLICY}, or a JSONL of outputs")],
    second: Annotated[str, typer.Argument(metavar="B", help="The same")],
    words: Words = None,
    output: Output = None,
    prompts: Prompts = None,
    as_json: Json = False,
) -> None:
    """How often A's responses beat B's: raw, at equal lengths, by category, at equal tokens."""
    reporter = _reporter(as_json)
    with clear_errors(reporter):
        from forethought.pipeline.measure import MeasureRequest, compare_two

        request = MeasureRequest(words=tuple(words or ()), output=output, prompts=prompts)
        _show(compare_two(first, second, request, reporter), reporter, as_json)


@evaluate.command("gsm8k")
def gsm8k(
    policy: PolicyWord, words: Words = None, output: Output = None, as_json: Json = False
) -> None:
    """Share of right final answers: measures.gsm8k.sources names the questions."""
    _measure("gsm8k", policy, words, output, None, as_json)


@evaluate.command("probe")
def probe(
    policy: PolicyWord,
    words: Words = None,
    output: Output = None,
    prompts: Prompts = None,
    as_json: Json = False,
) -> None:
    """Whether the response depends on the thought."""
    _measure("probe", policy, words, output, prompts, as_json)


@evaluate.command("alpaca-eval")
def alpaca_eval(
    policy: Annotated[str | None, typer.Argument(metavar="[POLICY]", help=POLICY)] = None,
    words: Words = None,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", help="Score these; no policy is asked")
    ] = None,
    difficulty: Annotated[
        Path | None, typer.Option("--difficulty", help="CSV: index, instruction_difficulty")
    ] = None,
    gamed: Annotated[
        Path | None, typer.Option("--gamed", help="CSV with the gamed-baseline rows")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option("--C", help="Regularisation of the fit; by default cross-validation's choice"),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="One model of an annotations file with several")
    ] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """AlpacaEval 2: win rate and length-controlled win rate against a baseline, in percent."""
    if annotations is None:
        _measure("alpaca_eval", _given(policy, "--annotations"), words, output, None, as_json)
        return
    reporter = _reporter(as_json)
    with clear_errors(reporter):
        from forethought.evaluation.alpaca_eval.win_rates import as_json as score_json
        from forethought.evaluation.alpaca_eval.win_rates import score_annotations

        scored = score_annotations(
            annotations, difficulty=difficulty, gamed=gamed, model=model, C=strength
        )
        _show_models([score_json(score) for score in scored], reporter, as_json)


@evaluate.command("arena-hard")
def arena_hard(
    policy: Annotated[str | None, typer.Argument(metavar="[POLICY]", help=POLICY)] = None,
    words: Words = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Score these verdicts; no policy is asked")
    ] = None,
    interval: Annotated[
        Literal["questions", "published"],
        typer.Option(
            "--interval",
            help="questions: resamples questions. published: resamples tripled battles as the "
            "published code does, which is too narrow",
        ),
    ] = "questions",
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Arena-Hard v0.1: score against a baseline in two games a question, in percent."""
    if labels is None:
        _measure("arena_hard", _given(policy, "--labels"), words, output, None, as_json)
        return
    reporter = _reporter(as_json)
    with clear_errors(reporter):
        from forethought.evaluation.arena_hard.arena_files import score_file

        scored = score_file(labels, interval=interval)
        _show_models([score.as_json() for score in scored], reporter, as_json)


@evaluate.command("judge")
def judge(
    words: Words = None,
    output: Output = None,
    responses: Annotated[
        Path | None,
        typer.Option(
            "--responses", help="JSONL of prompts and responses, in place of the package's"
        ),
    ] = None,
    preferences: Annotated[
        Path | None,
        typer.Option("--preferences", help="JSONL of prompts, each with chosen and rejected"),
    ] = None,
    as_json: Json = False,
) -> None:
    """How far a judge can be trusted: place, length, repetition, persuasion, agreement."""
    reporter = _reporter(as_json)
    with clear_errors(reporter):
        from forethought.cli.judge_table import show_judge
        from forethought.pipeline.measure_judge import JudgeRequest, evaluate_judge

        request = JudgeRequest(
            words=tuple(words or ()), output=output, responses=responses, preferences=preferences
        )
        counts = evaluate_judge(request, reporter)
        if as_json:
            typer.echo(json.dumps(counts, indent=2, ensure_ascii=False))
        else:
            show_judge(counts, reporter)


def _given(policy: str | None, option: str) -> str:
    if policy is None:
        raise typer.BadParameter(f"name a policy to measure, or a file to score with {option}")
    return policy


def _show_models(scores: list[dict[str, Any]], reporter: Reporter, as_json: bool) -> None:
    """One model's figures as they are, several by model."""
    if as_json:
        shown = scores[0] if len(scores) == 1 else {score["model"]: score for score in scores}
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    for score in scores:
        table = Table(title=_plain(score["model"]), title_justify="left")
        table.add_column("figure", overflow="fold")
        table.add_column("value", overflow="fold")
        for name, value in score.items():
            if name != "model" and value not in (None, {}):
                shown = f"{value:.4f}" if isinstance(value, float) else _plain(_brief(value))
                table.add_row(name, shown)
        reporter.console.print(table)


def _measure(
    name: str,
    policy: str,
    words: list[str] | None,
    output: Path | None,
    prompts: Path | None,
    as_json: bool,
) -> None:
    reporter = _reporter(as_json)
    with clear_errors(reporter):
        from forethought.pipeline.measure import MeasureRequest, evaluate_policy

        request = MeasureRequest(words=tuple(words or ()), output=output, prompts=prompts)
        _show(evaluate_policy(name, policy, request, reporter), reporter, as_json)


def _reporter(as_json: bool) -> Reporter:
    """Where figures are printed as JSON, progress goes to standard error."""
    return Reporter(Console(stderr=as_json))


def _show(counts: dict[str, Any], reporter: Reporter, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(counts, indent=2, ensure_ascii=False))
        return
    reporter.console.print(results_table(counts["results"]))
    for name, value in counts.items():
        if name != "results" and value:
            reporter.say(f"{name}: {_brief(value)}")


def results_table(results: list[dict[str, Any]]) -> Table:
    """Figures with interval and n; categories below the figure they belong to."""
    table = Table()
    table.add_column("figure", overflow="fold")
    table.add_column("category")
    for column in ("value", "95 % interval", "n"):
        table.add_column(column, justify="right", no_wrap=True)
    ordered = sorted(results, key=lambda result: _first(results, result["name"]))
    for result in ordered:
        ends = result["interval"]
        table.add_row(
            _plain(result["name"]),
            _plain(result["category"] or ""),
            f"{result['value']:.3f}",
            "unknown" if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]",
            str(result["count"]),
        )
    return table


def _first(results: list[dict[str, Any]], name: str) -> int:
    return next(index for index, result in enumerate(results) if result["name"] == name)


def _plain(text: str) -> str:
    """A name that others gave, as a cell of a table."""
    return escape(harmless(text))


def _brief(value: Any) -> str:
    text = json.dumps(_rounded(value), ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]} …"


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 4)
        case list() | tuple():
            return [_rounded(item) for item in value]
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case _:
            return value
