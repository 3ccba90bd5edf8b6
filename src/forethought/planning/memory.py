"""Bytes on one device, by stage.

Training, per trained weight: 4 bytes of float32 master, 8 of Adam's moments, 4 of gradient, divided
by the processes (FSDP2 shards them); with one process also 2 + 2 for the bfloat16 working copy and
its gradient. Sharded, two layers and the embeddings are whole at a time instead.

Activations, per token and layer: `20 h + 4 k + 8 i` bytes (h hidden, k width of keys, i width of
the MLP), counted on transformers' Llama in bfloat16 with hooks on saved tensors, to 1 %. With
checkpointing 2 h, and one layer's worth. Attention is counted without its scores, as the
variable-length kernels of GPUs keep none; on CPU `CPU_ACTIVATIONS` stands for them. Logits are
never whole.
"""

from __future__ import annotations

from forethought.config import DType, TrainingConfig
from forethought.planning.lengths import SPREAD
from forethought.planning.model_shape import ModelShape

CPU_ACTIVATIONS = 1.7
"""On CPU, of the counted activations: 550 and 1,147 MiB in benchmarks/README.md, counted 320 and
640."""
LOGIT_COPIES = 4
"""Float32 copies of a step's logits that the nucleus needs."""
CHUNK_BYTES = 3 * 4 * 2**22
"""A chunk of logits, its softmax and its gradient."""
PREFILL_TOKENS = 16384
"""Padded prompt tokens per pass of the embedded engine."""
VLLM_TOKENS = 8192
"""Tokens per pass of vLLM, which tries such a pass before it counts what is left for the cache."""
WIDTH = {"float32": 4, "bfloat16": 2}
"""Bytes of a number."""
PROCESS = 0.5e9
"""A process with torch and transformers imported, in the memory of its processor (measured)."""
RESERVE = 0.08
"""Share of a device's memory for CUDA, kernels' workspace and fragments. Assumed."""


def shared_memory(size: float, processes: int, *, cpu: bool) -> float:
    """Bytes that so many processes of `size` bytes take of a memory that they share.

    On CPU each process is there itself, and so is the one that started them.
    """
    if not size or not cpu:
        return processes * size
    return processes * size + (processes + (processes > 1)) * PROCESS


def inference_activations(shape: ModelShape, tokens: float) -> float:
    """Bytes of a layer's temporaries in bfloat16, with nothing kept for a backward pass."""
    return tokens * 2 * (6 * shape.hidden + 3 * shape.inner)


def sampling_memory(
    shape: ModelShape, dtype: DType, rows: float, prompt: float, output: float, k: int
) -> float:
    """Bytes of the embedded engine: weights, keys and values of its rows, logits of a step.

    A row in steady state holds SPREAD / 2 of the mean output; twice that, for the copies while a
    cache grows. The prompt is there once for its k outputs.
    """
    times = WIDTH[dtype] / 2
    cached = rows * (prompt / k + SPREAD * output) * shape.cache_bytes
    logits = rows * shape.vocabulary * 4 * LOGIT_COPIES
    work = inference_activations(shape, min(PREFILL_TOKENS, rows / k * prompt))
    return times * (2 * shape.parameters + cached + work) + logits


def vllm_least(shape: ModelShape, dtype: DType, rows: float, longest: float) -> float:
    """Bytes without which vLLM does not start.

    They are its weights, one pass, and the cache of one sequence of the longest length that it is
    told to take.
    """
    cached = longest * shape.cache_bytes
    work = inference_activations(shape, VLLM_TOKENS) + rows * shape.vocabulary * 4
    return WIDTH[dtype] / 2 * (2 * shape.parameters + cached) + work


def judge_memory(shape: ModelShape, dtype: DType, tokens: float) -> float:
    """Bytes of a reward model: its weights and the temporaries of a batch of so many tokens."""
    work = inference_activations(shape, tokens)
    return WIDTH[dtype] / 2 * (2 * shape.parameters + work)


def reference_memory(
    shape: ModelShape, training: TrainingConfig, processes: int, tokens: float, *, cpu: bool
) -> float:
    """Bytes of the starting policy on one of `processes` devices while it reads the pairs,
    `tokens` at a time.

    A process alone loads it in float32 before it is rounded, on CPU beside the file's own pages.
    """
    width = WIDTH[training.dtype]
    work = inference_activations(shape, tokens) + tokens * 2 * shape.hidden
    work = width / 2 * work + CHUNK_BYTES
    if processes == 1:
        loading = (6 if cpu else 4) * shape.parameters
        return max(loading, width * shape.parameters + work)
    return width * shape.parameters / processes + _gathered(shape) + work


def training_memory(
    shape: ModelShape, training: TrainingConfig, processes: int, tokens: float, *, cpu: bool
) -> float:
    """Peak bytes of a step on one of `processes` devices, of so many tokens at a time."""
    keys = shape.key_heads * shape.head_size
    layer = tokens * (20 * shape.hidden + 4 * keys + 8 * shape.inner)
    kept = shape.layers * layer
    if training.gradient_checkpointing:
        kept = shape.layers * tokens * 2 * shape.hidden + layer
    kept *= WIDTH[training.dtype] / 2
    if cpu:
        kept *= CPU_ACTIVATIONS
    return state_memory(shape, training, processes) + kept + CHUNK_BYTES


def state_memory(shape: ModelShape, training: TrainingConfig, processes: int) -> float:
    """Bytes of weights, gradients and optimizer states on one of `processes` devices."""
    total, working = shape.parameters, 0 if training.dtype == "float32" else 2
    # The 8 bytes below are a float32 master and its gradient.
    moments = moment_bytes(training)
    if training.lora is not None:
        adapters = shape.adapter_parameters(training.lora.rank)
        if processes == 1:
            # The base is loaded in float32 before it is rounded.
            frozen = WIDTH[training.dtype] * total
            return max(4 * total, frozen + (8 + moments + 2 * working) * adapters)
        frozen = WIDTH[training.dtype] * total
        return (frozen + (8 + moments) * adapters) / processes + _gathered(shape)
    if processes == 1:
        # The gradient of the head is added up in float32 beside the others.
        return (8 + moments + 2 * working) * total + 4 * shape.head_matrix
    return (8 + moments) * total / processes + _gathered(shape) + 4 * shape.head_matrix


def moment_bytes(training: TrainingConfig) -> int:
    """Bytes of Adam's two moments of a weight, of 32 bits or of 8."""
    return 8 if training.optimizer == "adamw" else 2


def trained_parameters(shape: ModelShape, training: TrainingConfig) -> int:
    """Number of weights that the optimizer moves: all, or those of the adapters."""
    if training.lora is None:
        return shape.parameters
    return shape.adapter_parameters(training.lora.rank)


def _gathered(shape: ModelShape) -> float:
    """Two layers and the embeddings, whole, in bfloat16, with gradients of a layer in float32."""
    return 2 * 2 * shape.layer_matrices + 6 * shape.layer_matrices + 2 * 2 * shape.head_matrix
