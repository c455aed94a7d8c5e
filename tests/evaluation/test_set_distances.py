"""FID, KID and their like, end to end on real networks: pictures, features, reference set, value."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from looking import look
from PIL import Image
from scipy.ndimage import gaussian_filter

from apex_cli.data.store import file_hash
from apex_cli.errors import DataError, SetupError
from apex_cli.evaluation import canary, effnet, frechet, inception, kid, mmd, reference, reference_sets
from apex_cli.evaluation.base import Item, Picture
from apex_cli.evaluation.catalog import EFFNET, INCEPTION
from apex_cli.evaluation.cmmd import Cmmd
from apex_cli.evaluation.distances import DistanceConfig
from apex_cli.evaluation.fd_dinov2 import FdDinov2
from apex_cli.evaluation.features import Extractor, FeatureStage
from apex_cli.evaluation.fid_clean import FidClean
from apex_cli.evaluation.fid_sana import FidSana512
from apex_cli.evaluation.observations import digest, observe, open_stores
from apex_cli.torchvision_guard import import_torchvision
from apex_cli.worlds.shapes.grammar import prompts, scene_for
from apex_cli.worlds.shapes.renderer import render


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "apex"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def pictures(folder: Path, count: int, damage=lambda pixels: pixels) -> list[Picture]:
    """Renders of prompts of the shapes world, as files."""
    folder.mkdir()
    found = []
    for i in range(count):
        prompt = prompts("iid")[i * 7 % 260]
        pixels = damage(render(scene_for(prompt, np.random.default_rng([5, i]))))
        Image.fromarray(pixels).save(folder / f"{i:05d}.png")
        item = Item(f"{i:05d}", prompt.tag, prompt.text)
        found.append(Picture(item, 0, folder / f"{i:05d}.png", digest([str(folder), i]), (64, 64)))
    return found


def seen(protocol, found: list[Picture]) -> dict:
    said = {}
    for stage in protocol.stages:
        stage.open()
        said[stage.name] = dict(zip(found, look(stage, found), strict=True))
    return said


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory) -> Path:
    """The published file's names, shapes and format, random values that let a picture through all its layers."""
    import_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d  # noqa: F401  # the blocks are installed

    torch.manual_seed(0)
    network = inception.inception()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.weight.uniform_(0.8, 1.6)
    weights = network.state_dict() | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    path = tmp_path_factory.mktemp("weights") / INCEPTION.name
    torch.save(weights, path)
    return path


def test_the_network_is_that_of_torch_fidelity(random_inception):
    import_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(random_inception))
    pixels = torch.randint(0, 256, (2, 3, 299, 299), dtype=torch.uint8)
    expected = theirs(pixels)[0]
    found = inception.load(random_inception)((pixels.float() - 128) / 128)
    assert expected.std() > 1e-3 and torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_fid_is_read_from_a_reference_set_of_a_folder(random_inception, tmp_path, monkeypatch):
    file = INCEPTION.files[0]
    asset = INCEPTION.__class__(**{**vars(INCEPTION), "files": (file.__class__(file.name, file.size),)})
    monkeypatch.setattr(FidClean, "asset", asset)
    truth, made = pictures(tmp_path / "truth", 8), pictures(tmp_path / "made", 6, np.ascontiguousarray)
    config = DistanceConfig(weights=random_inception, reference=tmp_path / "truth", forward=4)
    protocol = FidClean(config)
    assert protocol.needs[1].find() is None and "apex eval reference" in protocol.needs[1].remedy
    *_, told = reference_sets.collect(FidClean(config), tmp_path / "truth")
    assert told.n == 8 and protocol.needs[1].find() == told.path
    result = protocol.summarise(made, seen(protocol, made))
    own, others = (np.stack([row["features"] for row in seen(protocol, p)["features"].values()]) for p in (made, truth))
    expected = frechet.distance(frechet.gaussian(own), frechet.gaussian(others))
    assert result.value == pytest.approx(expected, rel=1e-6)
    assert result.facts["images"] == 6 and result.facts["reference images"] == 8
    own_name = reference.name_of(tmp_path / "truth")
    assert result.protocol == f"fid@clean+{own_name}", "a reference set other than MJHQ-30K stands in the name"
    assert result.identity["reference"] == {"name": own_name, "sha256": file_hash(told.path)}
    assert result.facts["reference set"] == f"{own_name}, SHA-256 {file_hash(told.path)[:12]}"
    assert "not FID-30K" in result.notes[0] and not result.higher_is_better
    sana = FidSana512(DistanceConfig(weights=random_inception, reference=told.path))
    with pytest.raises(DataError, match="another extractor or resize"):
        reference.read(told.path, {**protocol.stages[0].identity, "resize": sana.base}, whole=False)


class Averages:
    """A stage that takes the mean colour of a picture, and not of the second one."""

    name, uses, batch, identity = "features", (), 4, {"network": "mean"}

    def question(self, item):
        return ""

    def open(self):
        pass

    def prepare(self, picture):
        if picture.item.id == "00001":
            raise ValueError("cannot be decoded: broken data stream")
        return picture.pixels().mean((0, 1), dtype=np.float32)

    def observe(self, pictures, prepared, before):
        return [{"features": row} for row in prepared]


def test_a_picture_without_features_is_left_out_of_a_reference_set(tmp_path):
    made = pictures(tmp_path / "truth", 4)
    protocol = SimpleNamespace(base="toy", whole=True, stages=(Averages(),))
    *_, told = reference_sets.collect(protocol, tmp_path / "truth")
    assert told.n == 3 and [flaw.kind for flaw in told.flaws] == ["unreadable"]
    assert Path(told.flaws[0].name).name == "00001.png" and "cannot be decoded" in told.flaws[0].detail
    rows = reference.read(told.path, Averages.identity, whole=True)
    assert np.allclose(rows, [p.pixels().mean((0, 1)) for i, p in enumerate(made) if i != 1])


def test_the_reference_of_a_table_is_called_as_its_protocol(tmp_path):
    usual, other = FidSana512(DistanceConfig()), FidSana512(DistanceConfig(reference=tmp_path / "coco.safetensors"))
    (tmp_path / "coco.safetensors").touch()
    assert usual.name == "fid@sana-512" and other.name == "fid@sana-512+coco"
    assert usual.exclusive and not other.exclusive


def test_kinds_of_references_are_told_apart(tmp_path):
    """FID and KID on Inception share the identity of their extractor."""
    features, identity = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), {"network": "toy"}
    whole, summary = tmp_path / "whole.safetensors", tmp_path / "summary.safetensors"
    reference.write(whole, features, identity, whole=True)
    reference.write(summary, features, identity, whole=False)
    assert np.array_equal(reference.read(whole, identity, whole=True), features)
    assert reference.read(summary, identity, whole=False).n == 5
    with pytest.raises(DataError, match="holds all features where this suite compares with a mean and a covariance"):
        reference.read(whole, identity, whole=False)
    with pytest.raises(DataError, match="holds a mean and a covariance where this suite compares with all features"):
        reference.read(summary, identity, whole=True)
    np.savez(tmp_path / "stats.npz", mu=np.zeros(4), sigma=np.eye(4))
    with pytest.raises(DataError, match="holds a mean"):
        reference.read(tmp_path / "stats.npz", identity, whole=True)


def blurred(sigma: float):
    return lambda pixels: gaussian_filter(pixels, (sigma, sigma, 0))


def greyed(share: float):
    return lambda pixels: (share * pixels.mean(2, keepdims=True) + (1 - share) * pixels).astype(np.uint8)


def test_the_lite_kernel_distance_rises_with_every_level_of_damage(tmp_path):
    """The same scenes against the same renders, so that nothing but the damage differs. Of noise this does not hold:
    a standard deviation of 4 grey levels is already further away than the worst blur, and more noise no further, since
    the features get shorter while they turn away (docs/evaluation-images.md)."""
    protocol = kid.Kid(DistanceConfig())
    assert protocol.name == "kid@effnet-lite0" and protocol.tier == "lite"
    own, others = protocol.stages
    own.open(), others.open()
    fresh = pictures(tmp_path / "fresh", 24)
    truth = np.stack([row["features"] for row in look(others, fresh)])

    def result(found: list[Picture]):
        ids = [picture.item.id for picture in found]
        return protocol.compare(np.stack([row["features"] for row in look(own, found)]), truth, ids)

    clean = result(fresh)
    levels = {"blur": [blurred(s) for s in (0.5, 1, 2)], "grey": [greyed(s) for s in (0.5, 1)]}
    for name, damages in levels.items():
        found = [result(pictures(tmp_path / f"{name}{i}", 24, damage)) for i, damage in enumerate(damages)]
        values = [clean.value, *(one.value for one in found)]
        assert all(after > before + 5 for before, after in pairwise(values)), (name, values)
        assert clean.interval[1] < found[-1].interval[0], "and the worst lies beyond chance"
        assert found[-1].interval[0] < found[-1].value < found[-1].interval[1]
    assert abs(clean.value) < 40 and "renders of the same prompts" in clean.notes[1]


def test_the_lite_kernel_distance_needs_a_reference_for_other_prompts(tmp_path):
    known, foreign = Item("0", "all", "a photo of a cube"), Item("1", "all", "a city at night")
    alone = kid.Kid(DistanceConfig())
    unfit = alone.unfit(None, [known, foreign])
    assert alone.unfit(None, [known]) is None and unfit and "'a city at night'" in unfit.reason
    assert kid.Kid(DistanceConfig(reference=tmp_path)).unfit(None, [foreign]) is None


@pytest.fixture
def effnet_stage() -> FeatureStage:
    return FeatureStage(effnet.extractor(EFFNET.require()))


def test_the_canary_of_the_shipped_weights_is_stored(effnet_stage):
    asked = canary.stored(effnet_stage.identity, lambda: pytest.fail("they ship with the package"))
    assert asked.shape == (4, canary.DIRECTIONS)
    effnet_stage.open()


def test_a_broken_extractor_is_told_by_the_canary(effnet_stage):
    extractor = effnet_stage.extractor
    network = extractor.load()
    network.network._conv_stem.weight.data *= 1.5
    with pytest.raises(SetupError, match="extractor is broken"):
        canary.check(effnet_stage.identity, extractor.prepare, network, torch.device("cpu"))
    means = [lambda x: x.mean((2, 3)) * 0, lambda x: x.mean((2, 3)) * 0 + 1, lambda x: x.mean((2, 3)) / 0]
    for broken in (*means, lambda x: x.mean((2, 3)) - x.mean()):
        with pytest.raises(SetupError, match="extractor is broken"):
            canary.answers(extractor.prepare, broken, torch.device("cpu"))


def test_the_canary_keeps_the_answers_of_the_cpu_for_other_weights():
    identity = {"network": "toy"}
    canary.check(identity, effnet.prepare, lambda x: x.mean((2, 3)), torch.device("cpu"))
    canary.stored(identity, lambda: pytest.fail("they are kept"))
    with pytest.raises(SetupError, match="away from the stored ones"):
        canary.check(identity, effnet.prepare, lambda x: x.amax((2, 3)), torch.device("cpu"))


def test_features_do_not_depend_on_the_batch(effnet_stage, tmp_path):
    found = pictures(tmp_path / "some", 5)
    effnet_stage.open()
    together = look(effnet_stage, found)
    effnet_stage.batch = 2
    for one, other in zip(together, look(effnet_stage, found), strict=True):
        assert np.allclose(one["features"], other["features"], atol=1e-4)


def test_the_engine_says_to_the_bit_what_the_network_says_of_whole_batches(tmp_path):
    """Through threads, the store and the disk."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 7, 3), torch.nn.ReLU(), torch.nn.Flatten())
    extractor = Extractor({"network": "toy"}, effnet.prepare, lambda: network)
    found = pictures(tmp_path / "some", 11)
    list(observe(open_stores(tmp_path, [FeatureStage(extractor, 4)]), found))
    with torch.inference_mode():
        batches = torch.stack([effnet.prepare(picture.pixels()) for picture in found]).split(4)
        expected = torch.cat([network(batch) for batch in batches]).numpy()
    stores = open_stores(tmp_path, [FeatureStage(extractor, 4)])
    assert np.array_equal(np.stack([stores["features"][picture]["features"] for picture in found]), expected)


def test_cmmd_and_fd_dinov2_run_on_tiny_models_of_their_classes(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**small, intermediate_size=64, image_size=28, patch_size=14, projection_dim=16)
    CLIPVisionModelWithProjection(vision).save_pretrained(tmp_path / "clip")
    Dinov2Model(Dinov2Config(**small, image_size=518, patch_size=14)).save_pretrained(tmp_path / "dino")
    made = pictures(tmp_path / "made", 24)
    for kind, folder, dimensions in ((Cmmd, "clip", 16), (FdDinov2, "dino", 32)):
        config = DistanceConfig(weights=tmp_path / folder, reference=tmp_path / "made")
        list(reference_sets.collect(kind(config), tmp_path / "made"))
        protocol = kind(config)
        assert all(need.find() for need in protocol.needs)
        result = protocol.summarise(made, said := seen(protocol, made))
        assert next(iter(said["features"].values()))["features"].shape == (dimensions,)
        assert abs(result.value) < 1e-3 and result.protocol == protocol.name


def test_an_npz_of_pytorch_fid_is_read(tmp_path):
    path = tmp_path / "stats.npz"
    np.savez(path, mu=np.zeros(4), sigma=np.eye(4))
    found = reference.read(path, {}, whole=False)
    assert found.n is None and frechet.distance(found, found) < 1e-9
    np.savez(path, other=np.zeros(4))
    with pytest.raises(DataError, match="`mu` and `sigma`"):
        reference.read(path, {}, whole=False)


@pytest.mark.parametrize(("kind", "other"), [(FidClean, FidSana512), (kid.KidInception, Cmmd)])
def test_the_numbers_of_two_sets_are_found_once(kind, other, monkeypatch):
    rng = np.random.default_rng(0)
    features, truth = rng.normal(size=(30, 6)).astype(np.float32), rng.normal(size=(40, 6))
    protocol, truth = kind(DistanceConfig()), truth if kind.whole else frechet.gaussian(truth)
    prompts = [str(place) for place in range(30)]
    found = protocol.compare(features, truth, prompts)
    assert found.interval[0] < found.value < found.interval[1]
    for module, name in ((frechet, "distance"), (mmd, "squared_mmd")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("found again"))
    assert kind(DistanceConfig()).compare(features, truth, prompts) == found
    for asked in (
        lambda: protocol.compare(features + 1, truth, prompts),
        lambda: protocol.compare(features, truth, prompts[::-1]),
        lambda: protocol.compare(features, truth, ["0", *prompts[:-1]]),
        lambda: other(DistanceConfig()).compare(features, truth, prompts),
    ):
        with pytest.raises(pytest.fail.Exception, match="found again"):
            asked()
