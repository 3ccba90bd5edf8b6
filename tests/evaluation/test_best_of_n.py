"""The best of several direct answers, picked without the judge that compares later."""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_run import small_recipe, start

from forethought.config import (
    LaunchConfig,
    ModelConfig,
    ScriptedSampling,
    TransformersSampling,
    VerifierJudge,
    WinRateMeasure,
)
from forethought.config.recipe_files import load_recipe
from forethought.models.loading import load_model, load_tokenizer
from forethought.models.rendering import render
from forethought.pipeline.loop import run_recipe
from forethought.planning.costs import recipe_costs
from forethought.planning.devices import find_device
from forethought.progress.reporter import Reporter
from forethought.report.page import write_report
from forethought.runs.layout import StageRef
from forethought.stages.measures.best_of_n import (
    by_likelihood,
    by_vote,
    mean_logprobs,
    normalised,
)
from forethought.stages.measures.win_rate import Contender, WinRateSetup, compare
from forethought.stages.policies.sampled_policy import Policy
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import read_manifest, read_records
from forethought.thoughts import DIRECT, GENERIC, ThoughtFormat
from forethought.types import Answer, Completion, Message, ParsedOutput, ParseStatus, Prompt

QUICKSTART = str(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")
MODEL = ModelConfig(path="microworld", dtype="float32")
THOUGHT = "Here is my thought process:\na b c d e f g h i j k l\nHere is my response:\n5"


def prompt(number: int) -> Prompt:
    return Prompt(
        prompt_id=f"p{number:02d}",
        messages=(Message(role="user", content=f"What is {number} + 2?"),),
        category=None,
        source="s",
        reference=str(number + 2),
    )


def answer(prompt_id: str, index: int, text: str | None) -> Answer:
    tokens = load_tokenizer(MODEL.source).encode(text or "x", add_special_tokens=False)
    status = ParseStatus.COMPLETE if text is not None else ParseStatus.NO_RESPONSE
    return Answer(
        prompt_id=prompt_id,
        sample_index=index,
        attempts=1,
        completion=Completion(text=text or "x", token_ids=tuple(tokens), finish_reason="stop"),
        parsed=ParsedOutput(status=status, thought=None, response=text, response_offset=0),
        thought_tokens=0,
        response_tokens=len(tokens),
        score=None,
    )


def picked(*texts: str | None) -> str | None:
    [best] = by_vote([answer("p", index, text) for index, text in enumerate(texts)])
    return best.parsed.response


def test_a_vote_is_the_most_frequent_response_in_its_first_words():
    assert picked("7", "The answer is 5.", "the  answer is 5", "8") == "The answer is 5."
    assert picked("**5**", "6", "5.") == "**5**"
    assert picked("-5", "5", "-5") == "-5"
    assert picked("50%", "50", "50%.") == "50%"
    # The first drawn of equally frequent ones, whatever the order they come in.
    assert picked("a", "b", "b", "a") == "a"
    # What has no response is no candidate, however many there are.
    assert picked(None, None, "5") == "5"
    assert picked(None, None) is None
    several = [answer(f"p{i}", k, t) for i in range(2) for k, t in enumerate(["1", "2", "2"])]
    assert [one.sample_index for one in by_vote(several[::-1])] == [1, 1]


def test_what_stands_around_a_response_and_its_case_do_not_count():
    assert normalised(' "Paris." ') == normalised("paris") == "paris"
    assert normalised("-5") != normalised("5")
    assert normalised("") == normalised("...") == ""
    assert normalised(None) is None


def policy(sampling: Any, thought_format: ThoughtFormat = DIRECT) -> Policy:
    return Policy(
        name=thought_format.name,
        model=MODEL,
        thought_format=thought_format,
        sampling=sampling,
        seed_words=(0, thought_format.name),
    )


def test_likelihood_is_the_mean_log_prob_per_token_in_float64():
    prompts = [prompt(number) for number in range(3)]
    texts = ["5", "It is 5 and nothing else.", "banana banana"]
    drawn = [answer(one.prompt_id, k, text) for one in prompts for k, text in enumerate(texts)]
    direct = policy(TransformersSampling())
    found = mean_logprobs(drawn, direct, prompts)
    model = load_model(MODEL.source, dtype="float32", device="cpu").double()
    tokenizer = load_tokenizer(MODEL.source)
    exact: dict[tuple[str, int], float] = {}
    for one in drawn:
        [asked] = [each for each in prompts if each.prompt_id == one.prompt_id]
        ids, output = render(tokenizer, asked.messages, {}), one.completion.token_ids
        logits = model(input_ids=torch.tensor([[*ids, *output]])).logits[0, len(ids) - 1 : -1]
        logps = logits.log_softmax(-1)[torch.arange(len(output)), torch.tensor(output)]
        exact[one.prompt_id, one.sample_index] = logps.mean().item()
    assert found == pytest.approx(exact, abs=1e-4)
    for best in by_likelihood(drawn, direct, prompts):
        own = {k: v for k, v in exact.items() if k[0] == best.prompt_id}
        assert (best.prompt_id, best.sample_index) == max(own, key=lambda key: own[key])


def right(prompt: str, response: str) -> float:
    return float(response == "5")


def test_the_vote_is_compared_under_a_name_of_its_own(tmp_path: Path):
    def scripted(form: ThoughtFormat, *replies: str) -> Policy:
        script = tmp_path / f"{form.name}.jsonl"
        script.write_text(json.dumps({"match": "", "replies": replies}))
        return policy(ScriptedSampling(path=script, max_new_tokens=64), form)

    thinks = scripted(GENERIC, THOUGHT)
    match = WinRateSetup(
        first=Contender(name="thinks", policy=thinks, answers=None),
        second=Contender(name="direct", policy=scripted(DIRECT, "5", "6", "6"), answers=None),
        judge=VerifierJudge(function=f"{__name__}:right"),
        cache=None,
        account="test",
        prompts=tuple(prompt(number) for number in range(12)),
        launch=LaunchConfig(),
    )
    stage = Stage(tmp_path / "stage", name="win_rate", version=1, config={})
    counts: Any = compare(
        stage, match, WinRateMeasure(pick="vote", temperature=1), Reporter(Console(quiet=True))
    )
    names = {result["name"] for result in counts["results"]}
    assert "win_rate_best_of_n_by_vote" in names
    assert "win_rate_best_of_n" not in names
    assert counts["tokens_per_prompt"]["best_of_n_by_vote"] > counts["tokens_per_prompt"]["second"]
    drawn = stage.read_records("drawn", Answer)
    for best in stage.read_records("best_of_n_by_vote", Answer):
        own = [one for one in drawn if one.prompt_id == best.prompt_id]
        votes = Counter(one.parsed.response for one in own)
        assert votes[best.parsed.response] == max(votes.values())
    # A judge that knows the answer finds a 5 wherever there is one; a vote may lose it.
    oracle = sum(
        any(o.parsed.response == "5" for o in drawn if o.prompt_id == p.prompt_id)
        for p in match.prompts
    )
    found = sum(b.parsed.response == "5" for b in stage.read_records("best_of_n_by_vote", Answer))
    assert found < oracle


def test_where_the_weights_are_not_at_hand_likelihood_is_refused():
    server = 'sampling={type: openai, base_url: "http://localhost:1/v1"}'
    with pytest.raises(ValueError, match=r"pick: likelihood .* use pick: vote"):
        load_recipe([QUICKSTART, server, "measures.win_rate.pick=likelihood"])
    load_recipe([QUICKSTART, server, "measures.win_rate.pick=vote"])


def test_a_default_pick_names_no_other_work_than_before_there_was_a_choice():
    assert "pick" not in WinRateMeasure().identity()
    assert WinRateMeasure(pick="vote").identity()["pick"] == "vote"


def test_the_plan_asks_no_judge_to_pick():
    def flops(pick: str) -> float:
        recipe = load_recipe([QUICKSTART, f"measures.win_rate.pick={pick}"])
        costs = recipe_costs(recipe, find_device("h200"), 1)
        [own] = [cost for cost in costs.stages if cost.stage == "win_rate"]
        return own.effort.flops

    # The quickstart's judge is a function, which costs no operations.
    assert flops("judge") == flops("vote") < flops("likelihood")


@pytest.mark.slow
def test_a_run_that_is_killed_before_it_picks_ends_the_same(tmp_path: Path):
    def recipe(name: str) -> Any:
        words = ["iterations=0", "measures.win_rate={pick: likelihood}"]
        return small_recipe(tmp_path / name, *words)

    calm, torn = recipe("calm"), recipe("torn")
    run_recipe(calm, Reporter(Console(quiet=True)))
    ref = StageRef(recipe=torn, stage="win_rate", arm="thought", index=0)
    pid = start(torn)
    while not (ref.folder / "drawn.parquet").exists():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended before it was killed"
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    run_recipe(torn, Reporter(Console(quiet=True)))
    same = StageRef(recipe=calm, stage="win_rate", arm="thought", index=0)
    assert read_manifest(ref.folder).digest == read_manifest(same.folder).digest
    assert read_records(ref.folder, Answer, "best_of_n_by_likelihood")
    page = write_report(torn.run).read_text()
    assert "Against the likeliest of several" in page
    assert "Direct arm, likeliest of several" in page
