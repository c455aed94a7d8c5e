"""Any endpoint that speaks OpenAI's chat completions: POST URL/chat/completions with the picture as a data address.

Every question is asked until an answer comes or `attempts` are spent; timeouts, cut connections, 408, 429, 5xx and
bodies that are no answer are tried again after 1, 2, 4... times `wait` seconds. Another refusal, such as 400 for a
picture that the endpoint does not like, is the error of that answer; one that holds for all questions (401, 403, 404)
ends the suite. The whole cost is estimated before the first question; what has been paid is counted, and nothing is
asked that could pass the budget.
"""

from __future__ import annotations

import base64
import io
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from http.client import HTTPException
from math import inf
from typing import Any

from PIL import Image
from pydantic import Field

from apex_cli.config import Section
from apex_cli.errors import SetupError
from apex_cli.evaluation.judges.base import Answer, Estimate, Query

FATAL = (401, 403, 404)
PASSING = (408, 429)
"""Besides 5xx: what may be gone the next time."""
READINGS = 3
CHARACTERS_PER_TOKEN = 4
IMAGE_TOKENS = 1_000
"""Of a picture, for estimates: OpenAI counts 765 for 1024 x 1024, vision models of the Qwen family 1,000 to 1,300."""


class EndpointConfig(Section):
    url: str = Field(default="https://api.openai.com/v1", pattern="^https?://")
    """Up to and without `/chat/completions`."""
    model: str = ""
    """As the endpoint calls it."""
    key_variable: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; an unset one sends none. The key itself is never kept."""
    timeout: float = Field(default=60, gt=0)
    """Seconds for one request."""
    attempts: int = Field(default=4, ge=1)
    wait: float = Field(default=1, ge=0)
    """Seconds before the second attempt; doubled each time."""
    workers: int = Field(default=8, ge=1)
    """Requests under way at a time."""
    max_tokens: int = Field(default=2_000, ge=1)
    """Cap of an answer; estimates count it in full."""
    temperature: float = Field(default=0, ge=0)
    thinking: bool | None = None
    """Whether a judge that can think does so before it answers, sent as vLLM and SGLang read it.  [default: as the
    benchmark asks its own judge; else the endpoint decides]"""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further keys of the request, e.g. {"seed": 0}; they stand in the name of the protocol."""
    price_read: float = Field(default=0, ge=0)
    """US dollars for a million tokens that the judge reads; 0 where it costs nothing."""
    price_written: float = Field(default=0, ge=0)
    budget: float | None = Field(default=None, gt=0)
    """US dollars for what one run asks, all of its workers together. Nothing is asked if the estimate is higher."""
    until_spent: bool = False
    """Begin although the estimate is higher, and stop where the next answer could pass the budget."""


class Endpoint:
    """`thinking`: what the benchmark asks of it, where the user says nothing."""

    readings = READINGS

    def __init__(self, config: EndpointConfig, thinking: bool | None = None):
        self.config = config
        self.thinking = thinking if config.thinking is None else config.thinking
        self.processes = 1
        self.refusal: SetupError | None = None
        self.spent = 0.0
        self.promised = 0.0
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self.config.model

    @property
    def identity(self) -> Mapping[str, Any]:
        """Where it is served, how often and how fast it is asked does not change what it says."""
        settings = self.config.model_dump(mode="json", include={"temperature", "max_tokens", "extra"})
        thinking = {} if self.thinking is None else {"thinking": self.thinking}
        return {"judge": self.config.model, **settings, **thinking}

    @property
    def unusual(self) -> list[str]:
        temperature = self.config.temperature
        asked = [f"temperature{temperature:g}"] * (temperature != 0) + ["thinking"] * bool(self.thinking)
        return [*asked, *sorted(self.config.extra)]

    def share(self, workers: int) -> None:
        self.processes = workers

    def open(self) -> None:
        if not self.config.model:
            raise SetupError("No judge is named.", "Set judge.model, and judge.url unless it is OpenAI's.")

    def estimate(self, queries: Sequence[Query], protocol: str) -> Estimate:
        """Before anything is sent."""
        read, written = sum(map(_tokens, queries)), self.config.max_tokens * len(queries)
        limits = (self.config.budget, self.processes, self.spent, self.config.until_spent)
        return Estimate(protocol, self.name, len(queries), read, written, self._price(read, written), *limits)

    def ask(self, queries: Sequence[Query]) -> Iterator[tuple[Query, Answer]]:
        """In parallel."""
        pool = ThreadPoolExecutor(self.config.workers)
        try:
            asked = {pool.submit(self._one, query): query for query in queries}
            for answered in as_completed(asked):
                yield asked[answered], answered.result()
        finally:
            pool.shutdown(cancel_futures=True)
        if self.refusal:
            raise self.refusal

    def _one(self, query: Query) -> Answer:
        told = ""
        for attempt in range(1, self.config.attempts + 1):
            if self.refusal:
                return Answer(error=self.refusal.message, attempts=attempt - 1)
            share = self._price(_tokens(query), self.config.max_tokens)
            if not self._promise(share):
                return Answer(error=self._told_spent, attempts=attempt - 1)
            try:
                text, tokens = self._post(query)
                return Answer(text, "", attempt, tokens)
            except _Failure as failure:
                told = str(failure)
                if not failure.passing:
                    return Answer(error=told, attempts=attempt)
            finally:
                self._release(share)
            if attempt < self.config.attempts:
                time.sleep(self.config.wait * 2 ** (attempt - 1))
        return Answer(error=f"no answer in {self.config.attempts} attempts: {told}", attempts=self.config.attempts)

    def _post(self, query: Query) -> tuple[str, tuple[int, int]]:
        request = urllib.request.Request(
            f"{self.config.url.rstrip('/')}/chat/completions", json.dumps(self._body(query)).encode(), self._headers
        )
        try:
            with urllib.request.urlopen(request, timeout=self.config.timeout) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            raise self._refused(error) from error
        except (OSError, HTTPException) as error:  # also timeouts, cut connections and bodies
            raise _Failure(f"{type(error).__name__}: {getattr(error, 'reason', error)}") from error
        return self._answer(content, query)

    def _refused(self, error: urllib.error.HTTPError) -> _Failure:
        told = f"HTTP {error.code} {error.reason}"
        if error.code in PASSING or error.code >= 500:
            return _Failure(told)
        if error.code in FATAL:
            self.refusal = SetupError(
                f"The judge at {self.config.url} refuses: {told}.",
                f"Check judge.url, judge.model and ${self.config.key_variable}.",
            )
        with suppress(OSError, HTTPException):
            told = f"{told}: {' '.join(error.read(500).decode(errors='replace').split())}"
        return _Failure(told, passing=False)

    def _answer(self, content: bytes, query: Query) -> tuple[str, tuple[int, int]]:
        """The text of a response, and its tokens, which are paid whatever they say."""
        try:
            body = json.loads(content)
            usage = body.get("usage") or {}
            tokens = (
                int(usage.get("prompt_tokens", _tokens(query))),
                int(usage.get("completion_tokens", len(content) // CHARACTERS_PER_TOKEN)),
            )
            self._pay(tokens)
            text = body["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise _Failure(f"a body that is no chat completion ({type(error).__name__})") from error
        if not isinstance(text, str) or not text.strip():
            raise _Failure("an empty answer")
        return text, tokens

    def _body(self, query: Query) -> dict[str, Any]:
        picture = query.picture.path.read_bytes()
        with Image.open(io.BytesIO(picture)) as image:  # what it is, whatever it is called
            kind = image.get_format_mimetype()
        address = f"data:{kind};base64,{base64.b64encode(picture).decode()}"
        content = [{"type": "text", "text": query.text}, {"type": "image_url", "image_url": {"url": address}}]
        system = [{"role": "system", "content": query.system}] if query.system else []
        settings: dict[str, Any] = {"temperature": self.config.temperature, "max_tokens": self.config.max_tokens}
        if self.thinking is not None:
            settings["chat_template_kwargs"] = {"enable_thinking": self.thinking}
        messages = [*system, {"role": "user", "content": content}]
        return {"model": self.config.model, "messages": messages, **settings, **self.config.extra}

    @property
    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.config.key_variable, "")
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    @property
    def _share(self) -> float:
        """US dollars that this worker may spend."""
        return inf if self.config.budget is None else self.config.budget / self.processes

    @property
    def _told_spent(self) -> str:
        whose = "this worker's share of " if self.processes > 1 else ""
        return f"{whose}the budget of ${self.config.budget:g} is spent"

    def _price(self, read: int, written: int) -> float:
        return (read * self.config.price_read + written * self.config.price_written) / 1e6

    def _promise(self, dollars: float) -> bool:
        """Set money aside for a request, so that those under way together cannot pass the budget."""
        with self._lock:
            if self.spent + self.promised + dollars > self._share:
                return False
            self.promised += dollars
            return True

    def _release(self, dollars: float) -> None:
        with self._lock:
            self.promised -= dollars

    def _pay(self, tokens: tuple[int, int]) -> None:
        with self._lock:
            self.spent += self._price(*tokens)


def _tokens(query: Query) -> int:
    """To read, about."""
    return (len(query.system) + len(query.text)) // CHARACTERS_PER_TOKEN + IMAGE_TOKENS


class _Failure(Exception):
    """An attempt without an answer. `passing`: whether the next one may fare better."""

    def __init__(self, told: str, passing: bool = True):
        super().__init__(told)
        self.passing = passing
