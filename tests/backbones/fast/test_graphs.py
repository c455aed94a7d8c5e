"""What CUDA is told: how many kernels, which shapes, how many compiled graphs. The CPU can count all of it."""

from __future__ import annotations

import traceback

import pytest
import torch
from reruns import rerun
from torch.utils._python_dispatch import TorchDispatchMode

from apex_cli.backbones.blocks import blocks
from apex_cli.backbones.fast import graphs
from apex_cli.backbones.fast.twin import TWINS, make

TIMES = (1.0, 0.6)
CEILING = {"qwen_image": (77, 71), "sana": (49, 39)}
"""Operations of a block that are no views, as they were counted: plain, folded. One of SANA's is the copy before a
product that a convolution makes inside itself, where the depthwise one before it does not keep channels last."""
GRAPHS = {"qwen_image": 3, "sana": 2}
"""Of the first length and of any other; Qwen-Image has another for a text that fills its places and so has no mask."""


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


class Operations(TorchDispatchMode):
    """Counts calls of the dispatcher that make a new tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returned = func._schema.returns
        self.count += not (returned and returned[0].alias_info and not returned[0].alias_info.is_write)
        return func(*args, **(kwargs or {}))


class HostReads(TorchDispatchMode):
    """Finds copies from one device to another, which a CUDA graph cannot record."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        copies = {torch.ops.aten._to_copy.default: 0, torch.ops.aten.copy_.default: 1}
        if func in copies and args[copies[func]].device != answer.device:
            self.found.append("".join(traceback.format_stack(limit=6)))
        return answer


def operations(model, case) -> int:
    """Those of one block: of a network that runs it twice, less those of one that runs it once."""
    cond, (x_t, _) = model.encode_prompts(case.prompts), case.inputs()
    t, held, counts = torch.tensor([1.0, 0.6, 1.0]), model.network.transformer_blocks, []
    for layers in (held[:1], torch.nn.ModuleList([held[0], held[0]])):
        model.network.transformer_blocks = layers
        with Operations() as counted:
            model.velocity(x_t, t, cond)
        counts.append(counted.count)
    model.network.transformer_blocks = held
    return counts[1] - counts[0]


@pytest.mark.parametrize("name", CEILING)
def test_a_folded_block_has_fewer_operations(name, cases):
    case = cases(name)
    plain, folded = operations(case.model, case), operations(make(name, case.model, TIMES), case)
    assert plain <= CEILING[name][0]
    assert folded <= CEILING[name][1]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CEILING)
def test_one_graph_for_all_blocks_and_one_for_every_other_length(name, cases):
    """Without a break (fullgraph raises at one); a second prompt length makes the graph that serves any other.

    The empty prompt, of one token, is left out: torch gives a side of 1 a graph of its own.
    """
    case, made = cases(name), []
    twin = make(name, case.model, TIMES)
    torch._dynamo.reset()

    def backend(module, inputs):
        made.append(module)
        return module.forward

    x_t, t = case.inputs(1)[0], torch.ones(1)
    prompts = (*filter(None, case.prompts), "a red cube left of a blue sphere")
    conds = [twin.encode_prompts([prompt]) for prompt in prompts]
    expected = [twin.velocity(x_t, t, cond) for cond in conds]
    for block in blocks(twin.network):
        block.forward = torch.compile(block.forward, backend=backend, fullgraph=True)
    for cond, value in zip(conds, expected, strict=True):
        torch.testing.assert_close(twin.velocity(x_t, t, cond), value, atol=1e-5, rtol=1e-5)
    assert len({cond.tokens.shape[1] for cond in conds}) >= 3
    assert len(made) <= GRAPHS[name]


@pytest.mark.parametrize("name", ["qwen_image", "sana", "flux", "sd3", "zimage"])
def test_replayed_shapes_give_the_same_pictures(name, cases):
    case = cases(name)
    eager, static = (make(name, case.model, TIMES) for _ in range(2))
    static.make_static(rerun)
    x_t, t = case.inputs()[0], torch.tensor([1.0, 0.6, 1.0])
    for prompts in (case.prompts, case.prompts[::-1]):
        expected = eager.velocity(x_t, t, eager.encode_prompts(prompts))
        found = static.velocity(x_t, t, static.encode_prompts(prompts))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(static.decode(found), eager.decode(expected), atol=1e-5, rtol=1e-5)
    assert len(static.decode.records) == 1
    assert name == "zimage" or len(static._velocity.records) == 1


@pytest.mark.parametrize("name", TWINS)
def test_what_is_recorded_reads_nothing_from_the_host(name, build):
    """On the meta device a number that is read raises, as it does while CUDA records; copies are looked for."""
    meta = torch.device("meta")
    twin = make(name, build(name), TIMES)
    twin.make_static(rerun)
    cond = twin.encode_prompts(["a red cube", "two blue stars"]).to(meta)
    for part in twin.parts():
        part.to(meta)
    x_t, t = torch.empty(2, *twin.latent_shape, device=meta), torch.ones(2, device=meta)
    ids = torch.zeros(2, graphs.STEP, dtype=torch.long, device=meta)
    calls = [
        (twin.decode, (x_t,)),
        (twin._velocity, (x_t, t, cond)),
        (getattr(twin.text_encoder, "forward", None), (ids,)),
    ]
    recorded = [(replay.function, arguments) for replay, arguments in calls if isinstance(replay, graphs.Replay)]
    for function, arguments in recorded:
        function(*arguments)  # the runs before the recording fill caches
        with HostReads() as reads:
            function(*arguments)
        assert not reads.found
    assert len(recorded) == {"qwen_image": 3, "sana": 3, "zimage": 1}.get(name, 2)


@pytest.mark.parametrize("name", ["qwen_image", "sana"])
def test_twins_of_one_text_encoder_record_it_once(name, build):
    """A recording inside a recording is refused by CUDA."""
    first = make(name, build(name), TIMES)
    second = first.again()
    for twin in (first, second):
        twin.make_static(rerun)
    assert first.text_encoder is second.text_encoder
    assert not isinstance(first.text_encoder.forward.function, graphs.Replay)


def test_a_shape_is_recorded_once_and_the_oldest_goes():
    runs = []

    def double(x):
        runs.append(len(x))
        return 2 * x

    def capture(function):
        return rerun(function)

    replay = graphs.Replay(double, capture)
    first = replay(torch.ones(2))
    second = replay(torch.full((2,), 3.0))
    assert (first.tolist(), second.tolist()) == ([2, 2], [6, 6])
    assert len(replay.records) == 1
    for size in range(3, 3 + graphs.KEPT):
        replay(torch.ones(size))
    assert len(replay.records) == graphs.KEPT
    assert not any(key[0][0] == (2,) for key in replay.records)


def test_lengths_are_few():
    assert [graphs.rounded(length) for length in (1, 32, 33, 64)] == [32, 32, 64, 64]
