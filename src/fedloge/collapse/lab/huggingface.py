"""Neural collapse of a causal language model in a local folder, in the format of Hugging Face transformers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedloge.checks import check_least, check_threads
from fedloge.collapse.lab.corpus import split
from fedloge.collapse.lab.language import MEASURED, measure_model
from fedloge.collapse.lab.output import Output
from fedloge.errors import ConfigError, DataError
from fedloge.system.cpu import configure_cpu
from fedloge.tables import print_table


@dataclass(frozen=True)
class HuggingFace:
    """A measurement of your own model on your own text; nothing is downloaded.

    Args:
        model: Folder with the causal language model and its tokenizer, as ``save_pretrained`` writes them.
        text: A text file in UTF-8; every tenth window is held out for the loss and NC4.
        context: Tokens of a window; what is left over at the end of the text is dropped.
        min_count: Tokens seen fewer times as a target are left out.
        threads: Threads of the computation.
        output: Folder for summary.json.
        overwrite: Replace an older measurement in that folder.

    Raises:
        ConfigError: For a folder or a file that is not there.
    """

    model: str
    text: str
    context: int = 128
    min_count: int = 5
    threads: int = 1
    output: str = "runs/collapse/huggingface"
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_threads("threads", self.threads)
        for name, least in (("context", 2), ("min_count", 1)):
            check_least(name, getattr(self, name), least)
        if not (Path(self.model) / "config.json").is_file():
            remedy = "Give the folder that save_pretrained wrote; nothing is downloaded."
            raise ConfigError("model", self.model, "has no config.json", remedy)
        if not Path(self.text).is_file():
            raise ConfigError("text", self.text, "is no file", "Give a text file in UTF-8.")


class Pretrained:
    """A causal language model whose head's input is caught on the way.

    Args:
        model: A ``PreTrainedModel`` with output embeddings.

    Raises:
        ConfigError: If it has no linear head.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise ConfigError("model", type(model).__name__, "has no linear head", "Give a causal language model.")
        self.head = head
        self._caught: Tensor | None = None
        head.register_forward_pre_hook(self._catch)

    def _catch(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._caught = inputs[0]

    def logits(self, tokens: Tensor) -> Tensor:
        """Scores of the next token [n, T, V]."""
        scores: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return scores

    def hidden(self, tokens: Tensor) -> Tensor:
        """The input of the head [n, T, d]."""
        self.logits(tokens)
        assert self._caught is not None
        return self._caught

    def classifier(self) -> tuple[Tensor, Tensor | None]:
        """W [V, d] and b [V] of the head."""
        return self.head.weight, self.head.bias


def load(folder: str) -> tuple[Pretrained, Any]:
    """Model and tokenizer from local files, in float32.

    Raises:
        ConfigError: If transformers is not installed.
        DataError: If the folder does not hold them.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        remedy = "pip install 'fedloge[hf]'."
        raise ConfigError("model", folder, "needs transformers, which is not installed", remedy) from None
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder!r} does not hold a causal language model and its tokenizer: {error}") from error
    return Pretrained(model), tokenizer


def run(settings: HuggingFace) -> dict[str, float]:
    """Measure; write the output folder and print the table.

    Returns:
        What :func:`fedloge.collapse.lab.language.measure_model` returns.
    """
    configure_cpu(settings.threads)
    output = Output(settings.output, overwrite=settings.overwrite)
    model, tokenizer = load(settings.model)
    text = Path(settings.text).read_text(encoding="utf-8")
    tokens = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    count = len(tokens) // settings.context
    train, heldout = split(list(tokens[: count * settings.context].view(count, settings.context)))
    if not heldout:
        problem = f"has {len(tokens)} tokens, which make {count} windows of {settings.context}"
        raise ConfigError("text", settings.text, problem, "Ten are needed at least: give more text.")
    values = measure_model(model, torch.stack(train), torch.stack(heldout), settings.min_count)
    output.json("summary.json", {"settings": asdict(settings), "tokens": len(tokens), "values": values})
    shown = ("val_loss", "train_loss", *MEASURED, "etf_floor", "classes", "rare_classes")
    print_table(f"{settings.model} on {settings.text}", [{name: values[name] for name in shown}])
    return values
