"""Threads, precision and packed blocks: a prepared sampler predicts like the original, within the error of its precision."""

import copy

import parity
import pytest
import torch
from torch import nn

from unsilent.checkpoints.store import load_checkpoint, save_checkpoint
from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.models.condition import ConditionConfig
from unsilent.models.sampler import Sampler, SamplerConfig
from unsilent.models.transformer import TransformerConfig
from unsilent.speed import cpu_transformer, memory, prepare, threads
from unsilent.speed.choice import can_pack, choose_precision
from unsilent.speed.prepare import accelerate, prepare_block, sampling_mode
from unsilent.speed.threads import codec_threads

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONFIG = SamplerConfig(
    clip=Clip(frames=320),
    codes=128,
    transformer=TransformerConfig(layers=6, heads=4, width=128),
    condition=ConditionConfig(kind="features", n_features=5, feature_dim=64),
)
CODES = torch.randint(CONFIG.codes, (2, CONFIG.clip.n_codes), generator=torch.Generator().manual_seed(2))
FEATURES = torch.rand(1, 5, 64, generator=torch.Generator().manual_seed(3))
in_c = pytest.mark.skipif(not cpu_transformer.is_built(), reason="installed without a C compiler")


@pytest.fixture(scope="module")
def sampler():
    """Weights filled from their names, by the rule of the parity fixtures."""
    made = Sampler(CONFIG)
    made.load_state_dict({name: torch.from_numpy(parity.fill(name, value.shape)) for name, value in made.state_dict().items()})
    return made.eval().requires_grad_(False)


def prepared(sampler, precision, packs=True):
    made = copy.deepcopy(sampler)
    for number, block in enumerate(made.transformer.blocks):
        made.transformer.blocks[number] = prepare_block(block, precision, packs)
    if packs:
        accelerate(made, precision, CPU)
    return made


@torch.inference_mode()
def stepwise(sampler, codes=CODES):
    """Logits of all codes but the last, each through the cache."""
    logits, cache = sampler.start(codes[:, :0], sampler.condition(FEATURES))
    found = [logits]
    for position in range(codes.shape[1] - 1):
        found.append(sampler.step(codes[:, position], cache))
    return torch.stack(found, dim=1)


class TestThreads:
    """torch's thread count while a sampler runs: one where its operations are tiny, and restored afterwards."""

    @pytest.fixture(autouse=True)
    def _two_threads(self):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        yield
        torch.set_num_threads(before)

    def test_small_sampler_runs_on_one_thread(self, sampler):
        with sampling_mode(sampler, "float32"):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2

    def test_large_sampler_keeps_all_threads(self, sampler, monkeypatch):
        monkeypatch.setattr(prepare, "SMALL_WEIGHTS", 1)
        with sampling_mode(sampler, "float32"):
            assert torch.get_num_threads() == 2

    @in_c
    def test_packed_sampler_takes_all_threads_from_torch(self, sampler, monkeypatch):
        monkeypatch.setattr(prepare, "SMALL_WEIGHTS", 1)
        light = prepared(sampler, "int8")
        with sampling_mode(light, "int8"):
            assert (torch.get_num_threads(), light.transformer.threads) == (1, 2)

    def test_threads_are_restored_after_an_error(self, sampler):
        with pytest.raises(RuntimeError, match="stop"), sampling_mode(sampler, "float32"):
            raise RuntimeError("stop")
        assert torch.get_num_threads() == 2

    def test_codecs_of_small_models_get_one_thread(self, sampler, monkeypatch):
        assert codec_threads(sampler.config) == 1
        monkeypatch.setattr(threads, "SMALL_WEIGHTS", 1)
        assert codec_threads(sampler.config) == 2

    @in_c
    def test_autocast_is_for_unpacked_samplers_only(self, sampler):
        for made, expected in ((sampler, True), (prepared(sampler, "bfloat16"), False)):
            with sampling_mode(made, "bfloat16"):
                assert torch.is_autocast_enabled("cpu") is expected


class TestChoice:
    """The precision for a device and a sampler."""

    @pytest.mark.parametrize(
        ("asked", "device", "is_built", "multiplies_int8", "chosen"),
        [
            ("auto", CUDA, True, True, "bfloat16"),
            ("auto", CPU, True, True, "int8"),
            ("auto", CPU, True, False, "float32"),
            ("auto", CPU, False, False, "float32"),
            ("bfloat16", CPU, True, True, "bfloat16"),
            ("int8", CPU, True, False, "int8"),
        ],
    )
    def test_by_device_and_processor(self, asked, device, is_built, multiplies_int8, chosen, monkeypatch):
        monkeypatch.setattr(cpu_transformer, "is_built", lambda: is_built)
        monkeypatch.setattr(cpu_transformer, "multiplies_int8", lambda: multiplies_int8)
        assert choose_precision(asked, device, CONFIG) == chosen

    @pytest.mark.parametrize(
        ("device", "is_built", "width", "words"),
        [
            (CUDA, True, 128, "this is a GPU"),
            (CPU, False, 128, "was installed without a C compiler"),
            (CPU, True, 96, "a width of 96 is not a multiple of 64"),
        ],
    )
    def test_int8_is_refused_where_it_cannot_be_computed(self, device, is_built, width, words, monkeypatch):
        monkeypatch.setattr(cpu_transformer, "is_built", lambda: is_built)
        config = CONFIG.model_copy(update={"transformer": CONFIG.transformer.model_copy(update={"width": width})})
        assert not can_pack(config, device)
        assert choose_precision("auto", device, config) != "int8"
        with pytest.raises(ParameterError, match=f"int8 cannot be computed: .*{words}"):
            choose_precision("int8", device, config)


def test_joined_projections_equal_the_sampler(sampler):
    found, expected = stepwise(prepared(sampler, "float32", packs=False)), sampler.logits(CODES, sampler.condition(FEATURES))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@in_c
def test_packed_float32_equals_the_sampler(sampler):
    found, expected = stepwise(prepared(sampler, "float32")), sampler.logits(CODES, sampler.condition(FEATURES))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("packs", [False, pytest.param(True, marks=in_c)])
def test_step_refuses_to_exceed_the_cache(sampler, packs):
    light = prepared(sampler, "float32", packs)
    _, cache = light.start(CODES, light.condition(FEATURES))
    with pytest.raises(ParameterError, match="101 codes were given, but this sampler takes 100 at once"):
        light.step(CODES[:, 0], cache)


@pytest.mark.parametrize(
    ("precision", "packs", "divergence", "agreement"),
    [
        ("float32", False, 1e-9, 1.0),
        ("bfloat16", False, 2e-4, 0.96),
        pytest.param("float32", True, 1e-9, 1.0, marks=in_c),
        pytest.param("bfloat16", True, 2e-4, 0.96, marks=in_c),
        pytest.param("int8", True, 1e-3, 0.95, marks=in_c),
    ],
)
@torch.inference_mode()
def test_lower_precision_predicts_like_float32(sampler, precision, packs, divergence, agreement):
    """Mean Kullback-Leibler divergence (nats) of the next code, and how often the most likely code is the same."""
    light = prepared(sampler, precision, packs)
    with sampling_mode(light, precision):
        found = stepwise(light).double().log_softmax(-1)
    expected = sampler.logits(CODES, sampler.condition(FEATURES)).double().log_softmax(-1)
    divergence_found, same = (expected.exp() * (expected - found)).sum(-1).mean(), (expected.argmax(-1) == found.argmax(-1)).double().mean()
    assert divergence_found < divergence
    assert same >= agreement


@in_c
def test_take_does_not_depend_on_the_number_of_takes(sampler, sample_with):
    light = prepared(sampler, "int8")
    conditions = light.condition(FEATURES)
    alone, three = (sample_with(light, conditions, 30, seed=3, takes=takes) for takes in (1, 3))
    assert torch.equal(alone[0], three[0])
    assert not torch.equal(three[0], three[1])


@in_c
def test_blocks_are_packed_while_they_load(sampler, tmp_path):
    """Packed block by block equals packed at once, and no float32 matrix of a block stays in memory."""
    save_checkpoint(tmp_path, "sampler", "", CONFIG, sampler.state_dict(), {})
    held = []

    def finish(part):
        held.append(part)
        return prepare_block(part, "int8", packs=True)

    loaded = load_checkpoint(tmp_path, "sampler", finish=finish)
    assert not any(isinstance(layer, nn.Linear) for layer in loaded.transformer.modules())
    assert not any(list(part.parameters()) for part in held)
    accelerate(loaded, "int8", CPU)
    assert torch.equal(stepwise(loaded), stepwise(prepared(sampler, "int8")))


def test_retain_memory_restores_malloc_after_an_error(monkeypatch):
    calls = []

    class Library:
        def mallopt(self, which, value):
            calls.append((which, value))
            return value < 2**26  # as glibc before 2.35

        def malloc_trim(self, pad):
            calls.append("trim")

    def fail():
        with memory.retain_memory():
            calls.append("inside")
            raise KeyboardInterrupt

    monkeypatch.setattr(memory, "_glibc", Library)
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert calls == [(-3, 2**26), (-3, 2**25), (-1, 2**30), "inside", (-3, 2**25), (-1, 2**26), "trim"]
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with memory.retain_memory():
        pass
