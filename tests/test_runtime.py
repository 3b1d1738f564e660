"""What makes a model fast changes little of what it says: threads, precision, whole numbers, recorded steps."""

import copy

import parity
import pytest
import torch
from torch import nn

from unsilent import runtime
from unsilent.checkpoints.store import load_checkpoint, save_checkpoint
from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.models.condition import ConditionConfig
from unsilent.models.sampler import Sampler, SamplerConfig
from unsilent.models.transformer import TransformerConfig
from unsilent.runtime import SMALL_WEIGHTS, Int8Linear, RecordedStep, choose_precision, lighten, stepping_threads
from unsilent.sampling import sample_codes

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONFIG = SamplerConfig(
    clip=Clip(frames=320),
    codes=128,
    transformer=TransformerConfig(layers=6, heads=4, width=128),
    condition=ConditionConfig(kind="features", n_features=5, feature_dim=64),
)
CODES = torch.randint(CONFIG.codes, (2, CONFIG.clip.n_codes), generator=torch.Generator().manual_seed(2))
FEATURES = torch.rand(1, 5, 64, generator=torch.Generator().manual_seed(3))
whole_numbers = pytest.mark.skipif(not runtime.can_int8(CPU), reason="this CPU has no AVX-512 VNNI")


@pytest.fixture(scope="module")
def sampler():
    """Weights from their names alone, by the rule with which the authors' numbers were made."""
    made = Sampler(CONFIG)
    made.load_state_dict({name: torch.from_numpy(parity.fill(name, value.shape)) for name, value in made.state_dict().items()})
    return made.eval().requires_grad_(False)


def lightened(sampler, precision):
    made = copy.deepcopy(sampler)
    for block in made.transformer.blocks:
        lighten(block, precision)
    return made


@torch.inference_mode()
def stepwise(sampler, step, codes=CODES):
    """Logits of all codes but the last, each through the cache."""
    logits, cache = sampler.start(codes[:, :0], sampler.condition(FEATURES))
    found = [logits]
    for position in range(codes.shape[1] - 1):
        found.append(step(codes[:, position], cache))
    return torch.stack(found, dim=1)


class TestThreads:
    """Changed for small networks only, and always put back."""

    @pytest.fixture(autouse=True)
    def _two_threads(self):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        yield
        torch.set_num_threads(before)

    def test_a_small_network_steps_on_one_thread(self):
        with stepping_threads(16):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2

    def test_a_large_one_keeps_all(self):
        with stepping_threads(SMALL_WEIGHTS):
            assert torch.get_num_threads() == 2

    def test_threads_come_back_after_an_error(self):
        with pytest.raises(RuntimeError, match="stop"), stepping_threads(16):
            raise RuntimeError("stop")
        assert torch.get_num_threads() == 2


class TestChoice:
    """Which precision a device and a size get."""

    @pytest.mark.parametrize(
        ("asked", "device", "n_weights", "able", "chosen"),
        [
            ("auto", CUDA, SMALL_WEIGHTS, False, "bfloat16"),
            ("auto", CPU, SMALL_WEIGHTS, True, "int8"),
            ("auto", CPU, SMALL_WEIGHTS - 1, True, "float32"),
            ("auto", CPU, SMALL_WEIGHTS, False, "float32"),
            ("bfloat16", CPU, SMALL_WEIGHTS, True, "bfloat16"),
            ("int8", CPU, 1, True, "int8"),
        ],
    )
    def test_by_device_and_size(self, asked, device, n_weights, able, chosen, monkeypatch):
        monkeypatch.setattr(runtime, "can_int8", lambda device: able)
        assert choose_precision(asked, device, n_weights) == chosen

    @pytest.mark.parametrize("device", [CPU, CUDA])
    def test_whole_numbers_are_refused_where_they_cannot_be_computed(self, device, monkeypatch):
        monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
        with pytest.raises(ParameterError, match=f"int8 was asked for, but this {device.type} has no AVX-512 VNNI"):
            choose_precision("int8", device, 1)


@whole_numbers
class TestWholeNumbers:
    """A layer of whole numbers against the one it stands for."""

    @pytest.fixture
    def linear(self):
        torch.manual_seed(0)
        return nn.Linear(96, 40).requires_grad_(False)

    def test_near_the_layer_it_stands_for(self, linear):
        x = torch.randn(3, 7, 96, generator=torch.Generator().manual_seed(1))
        assert (Int8Linear(linear)(x) - linear(x)).norm() < 0.012 * linear(x).norm()

    def test_rows_are_rounded_by_themselves(self, linear):
        """A take must not depend on the takes beside it, however loud they are."""
        x, layer = torch.randn(4, 96, generator=torch.Generator().manual_seed(1)), Int8Linear(linear)
        loud = torch.cat([x, 1000 * x])
        assert torch.equal(layer(loud)[:4], layer(x))
        assert torch.equal(layer(x[2:3]), layer(x)[2:3])

    @pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
    def test_any_size_of_numbers_will_do(self, linear, size):
        x, layer = torch.randn(2, 96, generator=torch.Generator().manual_seed(1)), Int8Linear(linear)
        torch.testing.assert_close((layer(size * x) - linear.bias) / size, layer(x) - linear.bias, atol=2e-2, rtol=1e-2)

    def test_nothing_in_gives_the_bias(self, linear):
        assert torch.equal(Int8Linear(linear)(torch.zeros(1, 96))[0], linear.bias)

    def test_an_output_without_weights(self):
        linear = nn.Linear(8, 4).requires_grad_(False)
        linear.weight[1] = 0
        assert Int8Linear(linear)(torch.ones(1, 8))[0, 1] == linear.bias[1]


@pytest.mark.parametrize("precision", ["float32", pytest.param("int8", marks=whole_numbers)])
def test_a_recorded_step_is_the_step(sampler, precision):
    """Bit for bit, and also for another number of takes than it was recorded with."""
    light = lightened(sampler, precision)
    step = RecordedStep(light)
    assert torch.equal(stepwise(light, step), stepwise(light, light.step))
    assert torch.equal(stepwise(light, step, CODES[:1]), stepwise(light, light.step, CODES[:1]))


def test_fused_and_recorded_float32_is_the_sampler(sampler):
    light = lightened(sampler, "float32")
    found, expected = stepwise(light, RecordedStep(light)), sampler.logits(CODES, sampler.condition(FEATURES))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_recorded_step_knows_the_end_of_the_cache(sampler):
    step = RecordedStep(sampler)
    _, cache = sampler.start(CODES, sampler.condition(FEATURES))
    with pytest.raises(ParameterError, match="106 positions do not fit into a cache of 105"):
        step(CODES[:, 0], cache)


@pytest.mark.parametrize(
    ("precision", "divergence", "agreement"),
    [("float32", 1e-9, 1.0), ("bfloat16", 2e-4, 0.96), pytest.param("int8", 1e-3, 0.95, marks=whole_numbers)],
)
@torch.inference_mode()
def test_lower_precision_chooses_like_the_higher(sampler, precision, divergence, agreement):
    """The guard of quality: mean Kullback-Leibler divergence (nats) of the next code; how often the likeliest is the same."""
    light = lightened(sampler, precision)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        found = stepwise(light, light.step).double().log_softmax(-1)
    expected = sampler.logits(CODES, sampler.condition(FEATURES)).double().log_softmax(-1)
    apart, same = (expected.exp() * (expected - found)).sum(-1).mean(), (expected.argmax(-1) == found.argmax(-1)).double().mean()
    assert apart < divergence
    assert same >= agreement


@whole_numbers
def test_a_take_is_the_same_however_many_there_are(sampler):
    light = lightened(sampler, "int8")
    step, told = RecordedStep(light), light.condition(FEATURES)
    alone, three = (sample_codes(light, lambda _: told, 30, seed=3, takes=takes, step=step) for takes in (1, 3))
    assert torch.equal(alone[0], three[0])
    assert not torch.equal(three[0], three[1])


@whole_numbers
def test_blocks_are_made_small_while_they_are_read(sampler, tmp_path):
    """What is loaded block by block is what is made small at once, and no matrix of a block stays as it was."""
    save_checkpoint(tmp_path, "sampler", "", CONFIG, sampler.state_dict(), {})
    loaded = load_checkpoint(tmp_path, "sampler", finish=lambda part: lighten(part, "int8"))
    assert not any(isinstance(layer, nn.Linear) for layer in loaded.transformer.modules())
    light = lightened(sampler, "int8")
    assert torch.equal(stepwise(loaded, loaded.step), stepwise(light, light.step))
