"""Load a model's folder or hub name: config, tokenizer with chat template, network, adapter.

The one place that turns a recipe's model name into transformers objects, so that all uses mean the
same files and every mistake about them gives the same clear error; nothing else calls transformers'
`from_pretrained`. A plain name is a `ModelSource` without a revision and without code of its own.
"""

from __future__ import annotations

import gc
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forethought.config import ModelSource
from forethought.models.model_cache import cached, caches_models
from forethought.models.positions import fix_positions, original_length, reads_long
from forethought.models.template_limits import refuse_endless
from forethought.storage.files import content_hash, sha256_file

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GLANCES, GLANCE_BYTES = 64, 16384
"""Blocks of a file that are looked at, and their size: 1 MiB of a file of any size."""
TOKENIZER_FILES = (".json", ".model", ".txt", ".jinja", ".py")
"""What may belong to a tokenizer; a folder with other ones is another tokenizer."""
ADAPTER = "adapter"
"""Folder of a checkpoint's adapter. Where there are no weights beside it, its base is elsewhere."""
RESTS = Path("masters") / "rests.safetensors"
"""File of a checkpoint with what its bfloat16 weights lack of those that training left."""
Named = ModelSource | str
MICROWORLD = "microworld"
MICROWORLD_MODEL = Path(__file__).parent.parent / "microworld" / "seed_model"


def source_of(model: Named) -> ModelSource:
    """The source that a name means."""
    return ModelSource(path=model) if isinstance(model, str) else model


def resolve(model: Named, *, field: str = "model") -> str:
    """The folder or hub name behind a recipe's model name; `field` is where the recipe has it.

    Raises: ValueError if it looks like a folder and is not a model folder, or is one and has a
    revision.
    """
    source = source_of(model)
    name = source.path
    if name == MICROWORLD:
        return str(MICROWORLD_MODEL)
    folder = Path(name).expanduser()
    if source.revision is not None and folder.exists():
        raise ValueError(
            f"{field}: revision {source.revision} is asked for and {name} is a folder, which has "
            "none; leave it out, or name the model of the hub"
        )
    if folder.exists():
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"{field}: {name} has no config.json, so it is not a Hugging Face model folder; "
                "give the folder that save_pretrained wrote"
            )
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ValueError(
            f"{field}: {name} does not exist; give a model folder, a hub name such as "
            f"organisation/model, or {MICROWORLD!r} for the seed model in the package"
        )
    # A hub would be asked again and again, for a minute where there is no network.
    if folder.parent.is_dir() and source.revision is None and not _is_fetched(name):
        beside = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
        there = f"; it holds {', '.join(beside[:5])}" if beside else ""
        raise ValueError(
            f"{field}: {name} does not exist, and {folder.parent} is a folder here{there}. To have "
            "a model of that name from the hub, give its revision too (main is the newest)"
        )
    return name


def _is_fetched(name: str) -> bool:
    """Whether a hub model of this name was used on this machine before."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def local_folder(model: Named) -> str:
    """What others than transformers are given: a folder, fetched where a revision of the hub is
    asked for; else the hub name.

    Raises: ValueError if there is no such model or revision.
    """
    source = source_of(model)
    name = resolve(source)
    if source.revision is None:
        return name
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(name, revision=source.revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.revision: {source.revision} of {name} could not be had from the hub: {error}"
        ) from error


def pretrained(kind: Any, model: Named, **options: Any) -> Any:
    """`kind.from_pretrained` for one of transformers' classes; `options` go to it.

    Raises: ValueError and OSError, as transformers does.
    """
    source = source_of(model)
    loaded = kind.from_pretrained(
        resolve(source),
        trust_remote_code=source.trust_remote_code,
        **_revision(source),
        **options,
    )
    network = loaded[0] if isinstance(loaded, tuple) else loaded
    if hasattr(network, "named_modules"):
        fix_positions(network, long_context=source.long_context)
    return loaded


def _revision(source: ModelSource) -> dict[str, Any]:
    return {} if source.revision is None else {"revision": source.revision}


def load_config(model: Named) -> Any:
    """The model's config.

    Raises: ValueError if there is none.
    """
    from transformers import AutoConfig

    try:
        return pretrained(AutoConfig, model)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"model: no config could be loaded from {_named(model)}: {error}"
        ) from error


def load_tokenizer(model: Named, *, chat: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer, with a pad token; with `chat` it must have a chat template.

    Raises: ValueError if there is no tokenizer, no end token or no chat template.
    """
    source = source_of(model)
    if not caches_models():
        return _load_tokenizer(source, chat)
    folder = Path(resolve(source))
    files = [path for path in sorted(folder.glob("*")) if path.suffix in TOKENIZER_FILES]
    content = content_hash([[path.name, sha256_file(path)] for path in files]) if files else source
    key = ("tokenizer", content, source.trust_remote_code, chat)
    return cached(key, lambda: _load_tokenizer(source, chat))


def _load_tokenizer(source: ModelSource, chat: bool) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    name = _named(source)
    folder = Path(resolve(source))
    if folder.is_dir() and not any(
        (folder / file).is_file()
        for file in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    ):
        raise ValueError(
            f"model: {name} has no tokenizer files; save the tokenizer beside the weights "
            "(tokenizer.save_pretrained)"
        )
    try:
        tokenizer = pretrained(AutoTokenizer, source)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model: no tokenizer could be loaded from {name}: {error}") from error
    if chat and not tokenizer.chat_template:
        raise ValueError(
            f"model: the tokenizer of {name} has no chat template; forethought trains chat models, "
            "so save one with it (tokenizer.chat_template = …, or chat_template.jinja)"
        )
    if chat:
        refuse_endless(tokenizer, f"model: {name}")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"model: the tokenizer of {name} has no eos_token, so no output can end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Its warning of "indexing errors" is about prompts that never reach the model.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def _named(model: Named) -> str:
    """A source in an error's words."""
    source = source_of(model)
    return source.path if source.revision is None else f"{source.path} at {source.revision}"


def load_model(model: Named, *, dtype: str, device: str, **options: Any) -> PreTrainedModel:
    """The causal model in eval mode on its device; `options` go to `from_pretrained`.

    What training left is read as it is: in float32 its exact weights, and an adapter on its base,
    unmerged, in the same number type.

    Raises: ValueError if the folder holds no causal model.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    quiet_loading()
    if (adapter := find_adapter(model)) is not None:
        return load_adapted(adapter, dtype=dtype, device=device, **options).get_base_model()  # pyright: ignore[reportReturnType]
    try:
        loaded: Any = pretrained(
            AutoModelForCausalLM, model, dtype=getattr(torch, dtype), **options
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"model: {_named(model)} could not be loaded: {error}") from error
    if dtype == "float32" and (rests := find_rests(model)) is not None:
        from forethought.models.masters import restore

        restore(rests, loaded.named_parameters())
    return loaded.to(pick_device(device)).eval()


def load_runnable(model: Named, *, dtype: str, device: str) -> PreTrainedModel:
    """The causal model to run: its values are those of `dtype`, held in the type in which the
    device multiplies them (number_types.py).

    Raises: ValueError if the folder holds no causal model.
    """
    import torch

    from forethought.models.number_types import widened

    loaded = load_model(model, dtype=dtype, device=device)
    return widened(loaded, getattr(torch, dtype), pick_device(device))


def find_rests(model: Named) -> Path | None:
    """The file beside a checkpoint's rounded weights with what they lack; `None` for any other."""
    path = Path(resolve(model)) / RESTS
    return path if path.is_file() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What training with LoRA left, and the model that it belongs on.

    Example: `Adapter(folder=Path("runs/a/…/policy/adapter"), base=ModelSource(path="org/name"))`
    """

    folder: Path
    base: ModelSource
    rank: int


def find_adapter(model: Named) -> Adapter | None:
    """The adapter of a folder without weights of its own; `None` for any other model.

    Raises: ValueError if it names no base model, or one that is not there.
    """
    folder = Path(resolve(model))
    whole = (*folder.glob("*.safetensors"), *folder.glob("*.bin"))
    return None if whole else read_adapter(model)


def read_adapter(model: Named) -> Adapter | None:
    """The adapter of a folder, also beside merged weights; `None` where there is none.

    Raises: ValueError as `find_adapter` does.
    """
    source = source_of(model)
    folder = Path(resolve(source)) / ADAPTER
    if not folder.is_dir():
        return None
    try:
        described = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        name, revision = described["base_model_name_or_path"] or "", described.get("revision")
        base = replace(source, path=name, revision=revision)
        rank = int(described["r"])
        if not base.path:
            raise ValueError("it names no base model")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"model: {folder} holds no adapter that training wrote ({error!r})"
        ) from error
    try:
        resolve(base)
    except ValueError as error:
        raise ValueError(
            f"model: {folder} was trained on {base.path}, which is not there ({error}); put it back"
        ) from error
    return Adapter(folder=folder, base=base, rank=rank)


def load_adapted(
    adapter: Adapter, *, dtype: str, device: str, trainable: bool = False, **options: Any
) -> PeftModel:
    """The base with the adapter put into it, in eval mode on its device.

    Raises: ValueError if one of them cannot be loaded, or they do not belong together.
    """
    base = load_model(adapter.base, dtype=dtype, device=device, **options)
    return put_adapter(base, adapter, dtype=dtype, trainable=trainable)


def put_adapter(
    base: PreTrainedModel, adapter: Adapter, *, dtype: str, trainable: bool
) -> PeftModel:
    """Put the adapter into its base, which is changed; only the adapter can then be trained.

    Raises: ValueError if they do not belong together.
    """
    import torch
    from peft import PeftModel

    try:
        adapted = PeftModel.from_pretrained(base, str(adapter.folder), is_trainable=trainable)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"model: the adapter in {adapter.folder} does not fit {adapter.base.path}: {error}"
        ) from error
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(getattr(torch, dtype))
    return adapted.eval()


def merged(model: Named) -> PreTrainedModel:
    """A folder's adapter in the weights of its base, in float32 on the CPU.

    Raises: ValueError if it holds no adapter, or one of the two cannot be loaded.
    """
    adapter = read_adapter(model)
    if adapter is None:
        raise ValueError(f"model: {_named(model)} holds no adapter")
    adapted: Any = load_adapted(adapter, dtype="float32", device="cpu")
    return adapted.merge_and_unload()


def skeleton(model: Named, *, dtype: str) -> PreTrainedModel:
    """The causal model in eval mode without memory for its weights.

    Raises: ValueError if there is no such model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = load_config(model)
    with torch.device("meta"):
        built: Any = AutoModelForCausalLM.from_config(
            config,
            dtype=getattr(torch, dtype),
            trust_remote_code=source_of(model).trust_remote_code,
        )
    fix_positions(built, long_context=source_of(model).long_context)
    built.generation_config = generation_config(model)
    if (adapter := find_adapter(model)) is not None:
        from peft import LoraConfig, get_peft_model

        described = LoraConfig.from_pretrained(str(adapter.folder))
        described.base_model_name_or_path = built.name_or_path
        built = get_peft_model(built, described).get_base_model()  # pyright: ignore[reportArgumentType]
    return built.eval()


def stored_dtype(model: Named) -> str:
    """Number type of a checkpoint's weights as its config says; float32 if it does not."""
    return str(load_config(model).dtype or "float32").removeprefix("torch.")


def quiet_loading() -> None:
    """Turn off transformers' progress bars, which would cut through ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def pick_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one.

    Raises: ValueError if a GPU is asked for and there is none.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda is asked for and torch sees no GPU; use device: auto or cpu")
    return torch.device(device)


def free_memory() -> None:
    """Give the accelerator back what nothing refers to any more."""
    import torch

    # Modules refer to each other in circles; without this a GPU stays full. Cached ones stay.
    if not caches_models():
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def context_length(model_config: Any, *, long_context: bool = False) -> int | None:
    """Longest sequence the model was made for, in tokens; `None` if its config does not say."""
    text_config = model_config.get_text_config()
    limit = getattr(text_config, "max_position_embeddings", None)
    original = None if long_context else original_length(model_config)
    return original or (int(limit) if limit else None)


def context_of(network: PreTrainedModel) -> int | None:
    """The same of a loaded model."""
    return context_length(network.config, long_context=reads_long(network))


def end_token_ids(tokenizer: PreTrainedTokenizerBase, generation_config: Any) -> tuple[int, ...]:
    """Every token that ends an output: the tokenizer's and the generation config's."""
    declared = generation_config.eos_token_id if generation_config is not None else None
    ids = [declared] if isinstance(declared, int) else list(declared or [])
    return tuple(dict.fromkeys([*ids, single_id(tokenizer.eos_token_id)]))


def generation_config(model: Named) -> Any:
    """The generation config that transformers would give the loaded model."""
    from transformers import GenerationConfig

    source = source_of(model)
    try:
        return GenerationConfig.from_pretrained(resolve(source), **_revision(source))
    except OSError:
        return GenerationConfig.from_model_config(load_config(source))


def identity(model: Named) -> dict[str, Any]:
    """What names a model in a hash: its name, its revision, and its files where it is local.

    Of each file its size and some of its content: weights trained anew in place are another model.
    """
    source = source_of(model)
    name = source.path
    folder = Path(resolve(source))
    long = {"long_context": True} if source.long_context else {}
    if not folder.is_dir():
        return {"name": name} | _revision(source) | long
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    learned = [*sorted((folder / ADAPTER).glob("*.safetensors")), folder / RESTS]
    files += [path for path in learned if path.is_file()]
    content = content_hash([[path.name, *_glance(path)] for path in files])
    return {"name": name, "files": content} | long


def _glance(path: Path) -> tuple[int, str]:
    """Size and a hash of blocks all over a file, the first and the last among them."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for index in range(GLANCES):
            file.seek(max(size - GLANCE_BYTES, 0) * index // (GLANCES - 1))
            digest.update(file.read(GLANCE_BYTES))
    return size, digest.hexdigest()


def single_id(token_id: Any) -> int:
    """A tokenizer's special id, which transformers types as one id or several."""
    assert isinstance(token_id, int)
    return token_id
