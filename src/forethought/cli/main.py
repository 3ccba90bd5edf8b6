"""The commands on runs and files; evaluating and serving have modules of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from forethought.cli.check import check
from forethought.cli.doctor import doctor
from forethought.cli.drafts import compare, init
from forethought.cli.errors import clear_errors
from forethought.cli.evaluate import evaluate
from forethought.cli.running import move_all_aside, run_and_show, run_seeds
from forethought.cli.serve import chat, new_key, serve, vllm_plugin
from forethought.config import JudgePart, Recipe, SamplePart, path_or_url
from forethought.config.recipe_files import dump, load_part, load_recipe, load_run
from forethought.progress.reporter import Reporter
from forethought.types import Arm

app = typer.Typer(
    help="Train a chat model to think before it answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Words = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE... [KEY=VALUE...]",
        help="Recipe files, merged left to right, then overrides such as pairs.rho=0.2",
    ),
]
Parts = Annotated[
    list[str],
    typer.Argument(
        metavar="[RECIPE...] [KEY=VALUE...]",
        help="Recipe files and overrides; only the sections this command needs are read",
    ),
]
Source = Annotated[Path, typer.Argument(metavar="INPUT", help="A JSONL file")]
Target = Annotated[Path, typer.Argument(metavar="OUTPUT", help="The JSONL file to write")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory")]


@app.command()
def run(
    words: Words,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Move an older run of this name aside, to RUN.1")
    ] = False,
) -> None:
    """Start a run, or resume it: the same command again goes on where it stopped."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        recipe = _recipe(words)
        from forethought.runs.seeds import seed_recipes

        recipes = seed_recipes(recipe)
        if fresh:
            move_all_aside(recipes, reporter)
        if recipe.seeds:
            run_seeds(recipe, recipes, reporter)
        else:
            run_and_show(recipe, reporter)


@app.command()
def status(run: RunFolder) -> None:
    """Show every stage of a run: done, begun or owed."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.cli.status import status_table
        from forethought.runs.seeds import runs_below

        for each in runs_below(run):
            reporter.console.print(status_table(load_run(each)))


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where your runs are")] = Path(
        "runs"
    ),
) -> None:
    """List the runs in a folder: how far each is, and its last scores."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.cli.runs import find_runs, runs_table

        reporter.console.print(runs_table(folder, find_runs(folder)))


@app.command()
def plan(
    words: Words,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            help="Also predict memory, time and money: h200, h100, a100-80gb, l40s, rtx4090, cpu",
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, help="How many you have; by default what the recipe uses"),
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price", help="USD per device and hour instead of the table's")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option("--like", metavar="RUN", help="Take lengths from what this run sampled"),
    ] = None,
    prompt_tokens: Annotated[
        float | None, typer.Option("--prompt-tokens", min=1, help="Mean tokens of a prompt")
    ] = None,
    output_tokens: Annotated[
        float | None, typer.Option("--output-tokens", min=1, help="Mean tokens of an output")
    ] = None,
    storage: Annotated[
        float | None,
        typer.Option("--storage", help="GB per second to the run directory; 1 is assumed on GPUs"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The costs alone, for machines; needs --gpu")
    ] = False,
) -> None:
    """Show what a recipe will do, and with --gpu what it will cost; runs nothing."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        recipe = _recipe(words)
        from forethought.planning.bounds import plan as make_plan
        from forethought.planning.bounds import plan_table
        from forethought.planning.costs import recipe_costs
        from forethought.planning.devices import find_device
        from forethought.planning.fitting import refuse_what_cannot_fit
        from forethought.planning.plan_table import cost_json, cost_table
        from forethought.stages.checks.first_look import look_first

        if gpu is None and as_json:
            raise ValueError("--json prints costs; name a device, such as --gpu h200")
        device = None if gpu is None else find_device(gpu, price)
        lacking = look_first(recipe)
        if device is None:
            reporter.console.print(plan_table(make_plan(recipe)))
            for reason in lacking:
                reporter.say(f"not here yet: {reason}")
            _say_seeds(recipe, reporter)
            return
        costs = recipe_costs(
            recipe,
            device,
            gpus,
            like=like,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            storage=storage,
        )
        refuse_what_cannot_fit(costs)
        if as_json:
            typer.echo(json.dumps(cost_json(costs), indent=2))
        else:
            reporter.console.print(cost_table(costs, reporter.console.width))
            _say_seeds(recipe, reporter)


@app.command()
def config(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE... [KEY=VALUE...]",
            help="Recipe files and overrides; with --fields places such as training.lora",
        ),
    ] = None,
    fields: Annotated[
        bool, typer.Option("--fields", help="Print what a recipe may hold, field by field")
    ] = False,
) -> None:
    """Print the resolved recipe, every default filled in, or --fields and what they mean."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        if fields:
            from forethought.config.field_reference import field_reference

            typer.echo(field_reference(words or ()), nl=False)
            return
        import yaml

        text = yaml.safe_dump(dump(_recipe(words or ())), sort_keys=False, allow_unicode=True)
        typer.echo(text, nl=False)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories")],
    output: Annotated[
        Path | None,
        typer.Option("--output", help="The page to write; RUN/report.html for a single run"),
    ] = None,
) -> None:
    """Write one page that works offline, of one run or of several side by side."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.report.page import write_report
        from forethought.runs.seeds import runs_below

        folders = [below for folder in runs for below in runs_below(folder)]
        if output is None and len(runs) == 1 and len(folders) > 1:
            output = runs[0] / "report.html"
        reporter.say(f"report: {write_report(folders, output)}")


@app.command()
def view(
    run: RunFolder,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="A free one by default")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in the browser")] = False,
) -> None:
    """Show the same page live while a run goes on, on this machine only."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.report.live import serve_view

        serve_view(run, port=port, reporter=reporter, open_browser=open_browser)


@app.command()
def export(
    run: RunFolder,
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="The folder to write, or an address as s3://…")
    ],
    arm: Annotated[Arm, typer.Option("--arm")] = "thought",
    policy: Annotated[
        str, typer.Option("--policy", help="A number (0 is the seed), last, or best by test score")
    ] = "last",
    pairs: Annotated[
        bool, typer.Option("--pairs", help="The arm's training pairs instead of a policy")
    ] = False,
    keep_adapter: Annotated[
        bool,
        typer.Option("--keep-adapter", help="Of a LoRA policy, the adapter beside the weights"),
    ] = False,
    push: Annotated[
        str | None, typer.Option("--push", help="Also push to this hub repository, private if new")
    ] = None,
) -> None:
    """Write a policy with tokenizer, format and card, or the pairs as a data set."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.export.folder import check_push
        from forethought.export.folder import push as push_folder
        from forethought.export.pair_data_set import export_pairs
        from forethought.export.policy import export_policy

        place = path_or_url(target)
        if push is not None:
            check_push(push)
            if isinstance(place, str):
                raise ValueError(f"--push: {target} is no folder of this machine; name one")
        if pairs:
            export_pairs(run, place, arm=arm)
        else:
            which = _which(policy)
            export_policy(run, place, arm=arm, policy=which, keep_adapter=keep_adapter)
        reporter.say(f"export: {target}")
        if push is not None:
            kind = "dataset" if pairs else "model"
            reporter.say(f"pushed: {push_folder(Path(target), push, kind=kind)}")


def _which(policy: str) -> int | Literal["best", "last"]:
    if policy == "best" or policy == "last":
        return policy
    if not policy.isdigit():
        raise ValueError(f"--policy: {policy!r} is neither a number nor last nor best")
    return int(policy)


@app.command()
def sample(prompts: Source, output: Target, words: Parts) -> None:
    """Sample outputs for a file of prompts: JSONL in, JSONL out."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        part = load_part(SamplePart, words)
        from forethought.pipeline.on_files import sample_file
        from forethought.runs.policies import at_run_policy

        if part.model is not None:
            part = part.model_copy(update={"model": at_run_policy(part.model)})
        sample_file(part, prompts, output, reporter)


@app.command()
def judge(
    responses: Source,
    output: Target,
    words: Parts,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print what the judge keeps for a reader")
    ] = False,
) -> None:
    """Score a file of responses: JSONL in, JSONL out."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        part = load_part(JudgePart, words)
        from forethought.pipeline.on_files import judge_file

        judge_file(part, responses, output, reporter, explain=explain)


def _say_seeds(recipe: Recipe, reporter: Reporter) -> None:
    """A plan is of one seed; say so where a run has several."""
    if (count := len(recipe.seeds)) > 1:
        reporter.say(f"This is one seed's run; all {count} together take {count} times as much.")


def _recipe(words: Sequence[str]) -> Recipe:
    """The recipe of a command line, its model looked up where it is a run's policy."""
    recipe = load_recipe(words)
    from forethought.runs.policies import at_run_policy

    return recipe.model_copy(update={"model": at_run_policy(recipe.model)})


for command in (check, doctor, init, compare, serve, chat, vllm_plugin, new_key):
    app.command()(command)
app.add_typer(evaluate, name="evaluate")


def main() -> None:
    """Entry point of the `forethought` command."""
    app()
