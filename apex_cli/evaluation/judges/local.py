"""A judge that runs here, through transformers: models for visual question answering (BLIP), and vision-language models
with a chat template (Qwen-VL, LLaVA, SmolVLM). Greedy decoding, one question at a time, no thinking before the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from apex_cli.errors import SetupError
from apex_cli.evaluation.assets import file_sha256
from apex_cli.evaluation.judges.base import Answer, Query


class Local:
    """The model of `folder`, on the accelerator if there is one. `max_tokens`: cap of an answer."""

    readings, unusual = 1, ()

    def __init__(self, folder: Path, max_tokens: int):
        self.folder, self.max_tokens = folder, max_tokens

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def identity(self) -> Mapping[str, Any]:
        weights = [file_sha256(path) for path in sorted(self.folder.glob("*.safetensors"))]
        return {"judge": self.name, "weights": weights, "max_tokens": self.max_tokens, "version": 1}

    def open(self) -> None:
        import torch
        from transformers import (
            MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING,
            AutoConfig,
            AutoModelForImageTextToText,
            AutoModelForVisualQuestionAnswering,
            AutoProcessor,
        )

        self.device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        try:
            config = AutoConfig.from_pretrained(self.folder)
            self.answers_only = type(config) in MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING
            kind = AutoModelForVisualQuestionAnswering if self.answers_only else AutoModelForImageTextToText
            model: Any = kind.from_pretrained(self.folder, use_safetensors=True)
            self.processor: Any = AutoProcessor.from_pretrained(self.folder)
        except (OSError, ValueError) as error:
            told = f"The judge in '{self.folder}' could not be read: {str(error).splitlines()[0]}"
            raise SetupError(
                told, "Take a folder of a vision-language model of transformers with its processor."
            ) from error
        if not model.can_generate():
            told = f"'{self.name}' chooses among fixed answers and cannot write one."
            raise SetupError(told, "Take a judge that generates, e.g. BLIP for VQA or a chat model.")
        self.model = model.eval().to(self.device)

    def share(self, workers: int) -> None:
        """There is no budget."""

    def estimate(self, queries: Sequence[Query], protocol: str) -> None:
        """Costs nothing but time."""

    def ask(self, queries: Sequence[Query]) -> Iterator[tuple[Query, Answer]]:
        return ((query, self._one(query)) for query in queries)

    def _one(self, query: Query) -> Answer:
        import torch

        try:
            image = Image.fromarray(query.picture.pixels())
        except ValueError as error:
            return Answer(error=str(error), attempts=0)
        inputs = (self._plain if self.answers_only else self._chat)(query, image).to(self.device)
        with torch.inference_mode():
            written = self.model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        # A decoder that goes on from its prompt repeats it; one of its own (BLIP) does not.
        start = 0 if self.answers_only else inputs["input_ids"].shape[1]
        text = self.processor.batch_decode(written[:, start:], skip_special_tokens=True)[0].strip()
        return Answer(
            text, "" if text else "an empty answer", 1, (inputs["input_ids"].shape[1], written.shape[1] - start)
        )

    @property
    def _silence(self) -> dict[str, bool]:
        """Turns thinking off in a template that knows of it; others take the key for the processor's."""
        return {"enable_thinking": False} if "enable_thinking" in str(self.processor.chat_template) else {}

    def _plain(self, query: Query, image: Image.Image) -> Any:
        return self.processor(images=image, text=query.text, return_tensors="pt")

    def _chat(self, query: Query, image: Image.Image) -> Any:
        system = [{"role": "system", "content": [{"type": "text", "text": query.system}]}] if query.system else []
        content = [{"type": "image", "image": image}, {"type": "text", "text": query.text}]
        return self.processor.apply_chat_template(
            [*system, {"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **self._silence,
        )
