"""Every backbone with a text encoder: what comes back from disk is what was encoded, to the bit."""

from __future__ import annotations

import copy

import torch
from tiny_runs import own_cache  # noqa: F401

from apex_cli.data import identity
from apex_cli.data.prompts import Prompts


def test_a_prompt_comes_back_as_it_was_encoded(piped, tmp_path, monkeypatch):
    monkeypatch.setenv("APEX_CACHE", str(tmp_path))
    device = torch.device("cpu")
    made = Prompts(piped.model, piped.prompts, device, {})
    assert [done for done, _ in made.encode(made.missing())] == [1, 2, 3]
    again = Prompts(piped.model, piped.prompts, device, {})
    again.open()
    for prompt in piped.prompts:
        with torch.no_grad():
            expected = piped.model.encode_prompts([prompt])
        found = again[prompt]
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.mask, expected.mask)
        assert (found.pooled is None) == (expected.pooled is None)
        assert expected.pooled is None or torch.equal(found.pooled, expected.pooled)


def test_the_guidance_that_flux_takes_as_an_input_touches_no_text(cases):
    flux = copy.copy(cases("flux").model)
    before = identity.reader(flux)
    flux.config = flux.config.model_copy(update={"embedded_guidance": 3.5})
    assert identity.reader(flux) == before
