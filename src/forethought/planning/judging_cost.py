"""Cost of judging: reward models read, judge models read and write, verifiers compute.

Each worker has a judge of its own. A mixture is counted at its most expensive route, in memory with
all members.
The time of a judge at a server is that server's; its calls cost money where the recipe has a price.
"""

from __future__ import annotations

from dataclasses import replace

from forethought.config import JudgeConfig, LLMJudge, OpenAIEngine, ScoringJudge
from forethought.planning.device_shares import Share
from forethought.planning.hardware import Cluster, Effort
from forethought.planning.lengths import Lengths
from forethought.planning.memory import judge_memory
from forethought.planning.model_shape import model_shape
from forethought.planning.sampling_cost import sample_cost
from forethought.planning.work import forward_flops, longest_share, outputs_after

TEMPLATE = 20
"""Tokens of a chat template around a prompt and a response."""
INSTRUCTION = 400
"""Tokens of a judge model's own instruction. Assumed."""
VERDICT = 400
"""Tokens of a judge model's reasoning and verdict. Assumed."""


def judge_cost(
    judge: JudgeConfig,
    share: Share,
    lengths: Lengths,
    *,
    prompts: float,
    responses: int,
    part_size: float,
) -> Effort:
    """Cost of scoring `responses` for each of `prompts`.

    Each worker loads the judge once and does parts of `part_size` prompts whole.

    Raises: ValueError if the size of a judge's model cannot be read.
    """
    cluster = share.cluster
    if judge.panels:
        routes = [
            [
                judge_cost(
                    member.judge,
                    share,
                    lengths,
                    prompts=prompts,
                    responses=responses,
                    part_size=part_size,
                )
                for member in route.members
            ]
            for route in judge.panels
        ]
        summed = [sum(route[1:], route[0]) for route in routes]
        # All members are loaded together.
        memory = sum(member.memory for route in routes for member in route)
        return replace(max(summed, key=lambda route: route.seconds), memory=memory)
    if isinstance(judge, ScoringJudge):
        longest = longest_share(prompts, part_size, cluster.gpus)
        return _reward_cost(judge, cluster, lengths, prompts, responses, longest)
    if isinstance(judge, LLMJudge):
        return _model_cost(judge, cluster, lengths, prompts, responses)
    longest = longest_share(prompts, part_size, share.workers)
    return Effort.of({"host": longest * responses * cluster.rates.verdict})


def server_cost(engine: OpenAIEngine, calls: float, *, prompt: float, verdict: float) -> Effort:
    """Cost of so many calls of a judge at a server, `prompt` and `verdict` tokens each."""
    price = engine.price
    usd = 0.0 if price is None else (price.prompt * prompt + price.completion * verdict) / 1e6
    return Effort(usd=calls * usd, seconds=0.0, bound="server")


def _reward_cost(
    judge: ScoringJudge,
    cluster: Cluster,
    lengths: Lengths,
    prompts: float,
    responses: int,
    longest: float,
) -> Effort:
    """The busiest device has the `longest` share of the prompts."""
    shape, rates = model_shape(judge.source), cluster.rates
    before, response = lengths.prompt + TEMPLATE, lengths.response
    if judge.reads_prompt_once:
        read = outputs_after(before, response, responses, predicted=False)
    else:
        read = outputs_after(before, response, 1, predicted=False) * responses
    per_prompt = forward_flops(shape, read)
    passes = longest * read.read / judge.tokens_per_batch
    parts = {
        "compute": longest * per_prompt / (cluster.device.flops * rates.forward),
        "steps": passes * shape.layers * rates.layer,
        "start": rates.start,
        "storage": 2 * shape.parameters / rates.storage,
        "host": longest * responses * rates.output,
    }
    batch = min(judge.tokens_per_batch, longest * read.read)
    memory = judge_memory(shape, cluster.device.held(judge.dtype), batch)
    return Effort.of(parts, flops=prompts * per_prompt, memory=memory)


def _model_cost(
    judge: LLMJudge,
    cluster: Cluster,
    lengths: Lengths,
    prompts: float,
    responses: int,
) -> Effort:
    calls = prompts * judge.calls_per_group(responses)
    prompt = INSTRUCTION + lengths.prompt + judge.shown * lengths.response
    verdict = min(VERDICT, judge.max_new_tokens)
    if isinstance(judge.engine, OpenAIEngine):
        return server_cost(judge.engine, calls, prompt=prompt, verdict=verdict)
    if judge.model is None:
        return Effort.of({"host": calls * cluster.rates.output})
    drawn = sample_cost(
        model_shape(judge.model.source),
        judge.engine,
        cluster,
        judge.model.dtype,
        prompts=calls,
        k=1,
        prompt=prompt,
        output=verdict,
        longest=judge.max_new_tokens,
        part_size=calls,
    )
    # Its tokens are not the policy's.
    return Effort(seconds=drawn.seconds, bound=drawn.bound, flops=drawn.flops, memory=drawn.memory)
