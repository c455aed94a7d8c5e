"""What every backbone of the registry promises (`backbones/base.py`); what belongs to one class stands beside."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tiny_runs import own_cache  # noqa: F401

from apex_cli import registry
from apex_cli.backbones.blocks import blocks
from apex_cli.errors import UsageError
from apex_cli.flow.condition import Cond
from apex_cli.flow.condition_shift import ConditionShift, ConditionShiftConfig
from apex_cli.training.recompute import Recompute

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def unshifted(cond: Cond) -> Cond:
    return cond


def test_shapes(case):
    x_t, t = case.inputs()
    cond = case.model.encode_prompts(case.prompts)
    assert cond.tokens.shape == (3, cond.mask.shape[1], case.model.cond_dim)
    assert cond.mask.dtype == torch.bool
    pooled = getattr(case.model, "pooled_dim", 0)
    assert (cond.pooled is None) if pooled == 0 else (cond.pooled.shape == (3, pooled))
    with torch.no_grad():
        assert case.model.velocity(x_t, t, cond).shape == x_t.shape
        images = case.model.decode(x_t)
        assert case.model.encode_images(images).shape == x_t.shape


@pytest.mark.parametrize("shifted", [False, True], ids=["plain", "shifted"])
@torch.no_grad()
def test_a_batch_is_its_rows(case, shifted):
    """No row sees the padding its neighbours bring, under c and under c_fake."""
    x_t, t = case.inputs()
    widths = case.model.cond_dim, getattr(case.model, "pooled_dim", 0)
    shift = ConditionShift(ConditionShiftConfig(), *widths) if shifted else unshifted
    together = case.model.velocity(x_t, t, shift(case.model.encode_prompts(case.prompts)))
    for i, prompt in enumerate(case.prompts):
        alone = case.model.velocity(x_t[i : i + 1], t[i : i + 1], shift(case.model.encode_prompts([prompt])))
        torch.testing.assert_close(together[i : i + 1], alone, **CLOSE)


@torch.no_grad()
def test_padding_is_not_seen(case):
    x_t, t = case.inputs()
    cond = case.model.encode_prompts(case.prompts)
    if not cond.mask.all():
        cond = cond.padded(cond.tokens.shape[1] + 3)
    garbage = replace(cond, tokens=torch.where(cond.mask[..., None], cond.tokens, 1e3))
    torch.testing.assert_close(
        case.model.velocity(x_t, t, garbage), case.model.velocity(x_t, t, cond), atol=1e-6, rtol=1e-6
    )


@torch.no_grad()
def test_the_prompt_matters(case):
    x_t, t = case.inputs(1)
    one, other = (case.model.velocity(x_t, t, case.model.encode_prompts([p])) for p in case.prompts[:2])
    assert not torch.allclose(one, other)


@torch.no_grad()
def test_saved_and_loaded_again(case, tmp_path):
    case.model.save(tmp_path)
    kind = registry.resolve("backbone", case.name)
    again = kind(case.model.config.model_copy(update={"path": str(tmp_path)}))
    x_t, t = case.inputs()
    assert again.latent_shape == case.model.latent_shape
    expected, found = (m.velocity(x_t, t, m.encode_prompts(case.prompts)) for m in (case.model, again))
    assert torch.equal(found, expected)


def test_a_shallow_copy_takes_another_network(case):
    """So the loop makes the frozen v_real beside the student."""
    frozen, network = copy.copy(case.model), case.model.network
    frozen.network = copy.deepcopy(network)
    assert case.model.network is network


def test_every_lora_target_is_a_linear_layer(case):
    linear = [name for name, m in case.model.network.named_modules() if isinstance(m, torch.nn.Linear)]
    for target in case.model.lora_targets:
        assert any(f".{name}".endswith(f".{target}") for name in linear), target


def test_the_blocks_of_the_network_are_called_as_modules(case):
    """Sharding gathers the weights of a block when it is called, and those outside of blocks for a whole forward."""
    called: set[torch.nn.Module] = set()
    repeated = list(blocks(case.model.network))
    handles = [block.register_forward_hook(lambda block, *_: called.add(block)) for block in repeated]
    x_t, t = case.inputs()
    with torch.no_grad():
        case.model.velocity(x_t, t, case.model.encode_prompts(case.prompts))
    for handle in handles:
        handle.remove()
    assert called == set(repeated) != set()


def test_gradient_checkpointing_changes_no_gradient(case):
    """Of no block, of some, of all, and of other blocks in the second graph than in the first."""
    if not hasattr(case.model.network, "enable_gradient_checkpointing"):
        with pytest.raises(UsageError, match="no gradient checkpointing"):
            Recompute(case.model.network, [1.0])
        return
    x_t, t = case.inputs()
    cond = case.model.encode_prompts(case.prompts).detach()
    found = []
    for shares in ([0.0], [0.5], [1.0], [1.0, 0.5]):
        model = case.trainable()
        recompute = Recompute(model.network, shares)
        with recompute.step():
            loss = model.velocity(x_t, t, cond).square().mean() + model.velocity(x_t, 1 - t, cond).square().mean()
        loss.backward()
        found.append([p.grad for p in model.network.parameters() if p.grad is not None])
    assert found[0]
    for other in found[1:]:
        for plain, checkpointed in zip(found[0], other, strict=True):
            torch.testing.assert_close(checkpointed, plain, atol=1e-7, rtol=1e-5)


def test_unused_is_what_gets_no_gradient(case):
    """Or ranks that wait for the gradient of every trained parameter would wait for ever."""
    x_t, t = case.inputs()
    model = case.trainable()
    model.velocity(x_t, t, case.model.encode_prompts(case.prompts).detach()).square().mean().backward()
    names = {f"transformer.{name}": value.grad for name, value in model.network.named_parameters()}
    assert {name for name, grad in names.items() if grad is None} == {n for n in names if n.startswith(model.unused)}
