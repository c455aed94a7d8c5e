"""The 2-D world: its scores at the ceiling and the floor, its data, its plot and its backbone."""

from __future__ import annotations

import pytest
import torch

from apex_cli.backbones.mlp import Mlp
from apex_cli.data.modes import ModesData
from apex_cli.errors import CheckpointError, DataError
from apex_cli.worlds import modes

CONDITION = torch.arange(4000) % modes.CONDITIONS


def data(seed: int) -> torch.Tensor:
    return modes.draw(CONDITION, torch.Generator().manual_seed(seed))


def test_fresh_data_scores_perfectly_and_a_mean_does_not():
    ceiling = modes.score(data(1), CONDITION)
    assert ceiling["energy"] == pytest.approx(0, abs=5e-3)
    assert ceiling["in_mode"] > 0.98
    floor = modes.score(torch.zeros_like(data(1)), CONDITION)
    assert floor["energy"] > 1
    assert floor["in_mode"] == 0


def test_another_condition_is_another_distribution():
    wrong = modes.score(data(1), (CONDITION + 2) % modes.CONDITIONS)
    assert wrong["in_mode"] < 0.01
    assert wrong["energy"] > 0.05


def test_data_has_unit_scale():
    assert data(0).std(0).flatten().tolist() == pytest.approx([1, 1], abs=0.05)


def test_batches_are_a_function_of_their_indices():
    first, again = (ModesData(ModesData.Config(size=100)) for _ in range(2))
    prompts, x = first.prompts([7, 3, 7]), first.latents()
    assert prompts == ["condition 3", "condition 3", "condition 3"]
    assert torch.equal(x, again.latents())
    assert x.shape == (100, 2, 1, 1)
    assert len(first) == 100
    assert not torch.equal(x, ModesData(ModesData.Config(size=100, seed=1)).latents())


def test_an_unknown_prompt_is_an_error_with_the_known_ones():
    with pytest.raises(DataError) as error:
        modes.condition_of("a red cube")
    assert "condition 0" in error.value.remedy


def test_scatter_writes_a_picture(tmp_path):
    path = modes.scatter({"data": data(0), "other": data(1)}, CONDITION, tmp_path / "modes.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_mlp_speaks_the_backbone_protocol(tmp_path):
    backbone = Mlp(Mlp.Config(width=16, depth=1))
    torch.nn.init.normal_(backbone.network.leave.weight)
    cond = backbone.encode_prompts(["condition 0", "condition 3", ""])
    assert cond.tokens.shape == (3, 1, backbone.cond_dim)
    assert bool(cond.mask.all())
    assert cond.tokens[2].abs().sum() == 0
    x_t, t = torch.randn(3, *backbone.latent_shape), torch.tensor([0.0, 0.5, 1.0])
    velocity = backbone.velocity(x_t, t, cond)
    assert velocity.shape == x_t.shape
    torch.testing.assert_close(backbone.velocity(x_t[:1], t[:1], cond.select(slice(0, 1))), velocity[:1])
    backbone.save(tmp_path)
    loaded = Mlp(Mlp.Config(path=str(tmp_path)))
    assert torch.equal(loaded.velocity(x_t, t, cond), velocity)


def test_mlp_weights_follow_the_seed_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    one, same, other = (Mlp(Mlp.Config(width=16, seed=seed)).network.enter.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_a_folder_without_weights_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no saved MLP"):
        Mlp(Mlp.Config(path=str(tmp_path)))
