"""Prompts that were read lately, with their embeddings on the device: a repeated prompt costs no text encoder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from apex_cli.flow.condition import Cond


class PromptMemory:
    """The last `limit` prompts, each as a row of its own length; 0 remembers nothing.

    `hits` and `misses` count prompts.
    """

    def __init__(self, limit: int = 1024):
        self.limit, self.hits, self.misses = limit, 0, 0
        self.rows: OrderedDict[str, Cond] = OrderedDict()

    def read(self, prompts: Sequence[str], lengths: Callable[[Sequence[str]], tuple[Cond, Sequence[int]]]) -> Cond:
        """The condition of `prompts`, padded to the longest; unknown ones go through `lengths`, which answers with
        their condition and how many of its tokens are real in each row."""
        unknown = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.rows]
        self.misses += len(unknown)
        self.hits += len(prompts) - len(unknown)
        known = {prompt: self.rows[prompt] for prompt in prompts if prompt in self.rows}
        if unknown:
            cond, real = lengths(unknown)
            if len(unknown) == len(prompts) and not self.limit:
                return cond
            for i, prompt in enumerate(unknown):
                known[prompt] = trimmed(cond.select(slice(i, i + 1)), real[i])
        for prompt in prompts:
            self.rows[prompt] = known[prompt]
            self.rows.move_to_end(prompt)
        while len(self.rows) > self.limit:
            self.rows.popitem(last=False)
        return Cond.cat([known[prompt] for prompt in prompts])

    def clear(self) -> None:
        """Forget all prompts and counts."""
        self.rows.clear()
        self.hits = self.misses = 0


def trimmed(row: Cond, length: int) -> Cond:
    """One row without its padding, in memory of its own."""
    return Cond(row.tokens[:, :length].clone(), row.mask[:, :length].clone(), row.pooled)
