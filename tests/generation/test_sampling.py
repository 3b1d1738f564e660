"""Sampling: each code is a function of seed, take and position; windows cover any length; primes are kept."""

import numpy as np
import pytest
import torch

from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.generation.sampling import ENDED, Audition, draw_uniforms, guide, next_code, sample_codes
from unsilent.generation.windows import Window, plan_windows
from unsilent.models.code_order import to_grid
from unsilent.models.configs import ConditionConfig, SamplerConfig, TransformerConfig
from unsilent.models.sampler import Sampler
from unsilent.request import Request

CLIP = Clip(frames=160)  # ten columns


@pytest.fixture(scope="module")
def sampler():
    torch.manual_seed(0)
    sampler = Sampler(
        SamplerConfig(
            clip=CLIP,
            codes=32,
            transformer=TransformerConfig(layers=2, heads=2, width=16),
            condition=ConditionConfig(kind="features", n_features=3, feature_dim=6),
        )
    ).eval()
    for parameter in sampler.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)  # an untrained sampler says nearly the same everywhere
    return sampler


def steady(sampler):
    condition = sampler.condition(features=torch.ones(1, 3, 6))
    return lambda window: condition


def sample(sampler, n_columns, condition_of=None, **more):
    others = {name: more.pop(name) for name in ("prime", "on_column", "audition") if name in more}
    request = Request(**{"seed": 3, "temperature": 1.0, "top_k": sampler.config.codes, "guidance": 1.0, **more})
    windows = plan_windows(n_columns, CLIP.columns, CLIP.hop_columns)
    return sample_codes(sampler, windows, map(condition_of or steady(sampler), windows), request, **others)


@pytest.mark.parametrize("n_columns", [1, 3, 10, 11, 15, 16, 47])
@pytest.mark.parametrize("hop", [1, 4, 5, 10])
def test_windows_cover_every_column_once_in_order(n_columns, hop):
    windows = plan_windows(n_columns, 10, hop)
    made = [column for window in windows for column in range(window.start + window.primed, window.start + window.columns)]
    assert made == list(range(n_columns))
    assert all(window.columns <= 10 for window in windows)
    assert all(window.primed == 10 - hop for window in windows[1:])


def test_a_longer_video_begins_with_the_windows_of_a_shorter_one():
    assert plan_windows(40, 10, 5)[:3] == plan_windows(20, 10, 5)


@pytest.mark.parametrize(
    ("n_columns", "hop", "words"), [(0, 5, "n_columns is 0, but must be 1 or more"), (5, 0, "a hop of 0"), (5, 11, "a hop of 11")]
)
def test_impossible_windows_are_refused(n_columns, hop, words):
    with pytest.raises(ParameterError, match=words):
        plan_windows(n_columns, 10, hop)


@pytest.mark.parametrize("n_columns", [1, 4, 10, 11, 27])
def test_sequence_length_is_exact(sampler, n_columns):
    assert sample(sampler, n_columns).shape == (1, n_columns * CLIP.rows)


def test_same_seed_same_codes(sampler):
    assert torch.equal(sample(sampler, 20), sample(sampler, 20))
    assert not torch.equal(sample(sampler, 20), sample(sampler, 20, seed=4))


@pytest.mark.parametrize("columns", [3, 10, 12, 30])  # inside a window, at its end, inside the next, after all
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_candidates_that_pass_an_audition_go_on_as_without_it(sampler, columns, guidance):
    heard, fed = [], []
    audition = Audition(columns, lambda known: heard.append(known.shape[1] // CLIP.rows) or torch.tensor([0, 2]))
    every = sample(sampler, 25, takes=4, guidance=guidance)
    some = sample(sampler, 25, takes=4, guidance=guidance, audition=audition, on_column=lambda known: fed.append(known.shape))
    end = columns * CLIP.rows
    assert torch.equal(some[[0, 2]], every[[0, 2]])
    assert torch.equal(some[[1, 3], :end], every[[1, 3], :end])
    assert (some[[1, 3], end:] == ENDED).all()
    assert heard == [columns] * (columns < 25)
    assert fed == [(4, (column + 1) * CLIP.rows) for column in range(25)]


@pytest.mark.parametrize("columns", [None, 2, 4, 6])  # in the first shot, at its end, in the second
def test_a_shot_that_a_lead_begins_knows_no_codes_of_the_shot_before(sampler, columns):
    windows = [Window(-2, 2, 6, 2), Window(2, 2, 8, 2)]  # shots of four and six columns
    request = Request(seed=3, takes=3, temperature=1.0, top_k=32, guidance=1.0)
    audition = columns and Audition(columns, lambda known: torch.tensor([1]))
    rng = torch.Generator().manual_seed(0)
    before, other, lead = torch.randint(32, (3, 2, 3, CLIP.rows, 2), generator=rng)
    conditions = [steady(sampler)(window) for window in windows]
    one = sample_codes(sampler, windows, conditions, request, leads=[before, lead], audition=audition)
    two = sample_codes(sampler, windows, conditions, request, leads=[other, lead], audition=audition)
    assert not torch.equal(one[1, : 4 * CLIP.rows], two[1, : 4 * CLIP.rows])
    assert torch.equal(one[1, 4 * CLIP.rows :], two[1, 4 * CLIP.rows :])


@pytest.mark.parametrize("columns", [None, 4, 8])  # an audition in the first window, and in the second
def test_a_lead_inside_the_sound_takes_the_place_of_the_earliest_known_columns(sampler, columns):
    """It changes what comes after it. The columns in its place do not matter, and the others do."""
    windows = [Window(0, 0, 6), Window(0, 6, 10, 4)]
    request = Request(seed=3, takes=3, temperature=1.0, top_k=32, guidance=2.0)
    audition = columns and Audition(columns, lambda known: torch.tensor([1]))
    rng = torch.Generator().manual_seed(0)
    one, other = torch.randint(32, (2, 2, 3, CLIP.rows, 4), generator=rng)
    conditions = [steady(sampler)(window) for window in windows]

    def made(lead, known):
        fields = {"prime": known, "leads": [lead], "audition": audition}
        return sample_codes(sampler, windows, conditions, request, **fields)[1].unflatten(0, (-1, CLIP.rows))

    known = torch.randint(32, (CLIP.rows, 6), generator=rng)
    replaced, continued = known.clone(), known.clone()
    replaced[:, 3], continued[:, 4] = (known[:, 3] + 1) % 32, (known[:, 4] + 1) % 32
    first = made(one, known)
    assert torch.equal(first[6:], made(one, replaced)[6:])
    assert not torch.equal(first[6:], made(one, continued)[6:])
    assert torch.equal(first[:6], made(other, known)[:6])
    assert not torch.equal(first[6:], made(other, known)[6:])


def test_a_take_does_not_depend_on_the_others(sampler):
    three = sample(sampler, 15, takes=3)
    assert torch.equal(three[:1], sample(sampler, 15))
    assert not torch.equal(three[0], three[1])


def test_guidance_one_computes_no_unconditional_rows(sampler, monkeypatch):
    """The sampler processes unconditional sequences only where guidance uses them."""
    expected, rows, step = sample(sampler, 12, takes=2), [], sampler.step
    monkeypatch.setattr(sampler, "step", lambda code, reading: (rows.append(len(code)), step(code, reading))[1])
    assert torch.equal(sample(sampler, 12, takes=2, guidance=1.0), expected)
    assert set(rows) == {2}


def test_guidance_zero_ignores_the_condition(sampler):
    nothing = torch.zeros_like(steady(sampler)(None))
    assert torch.equal(sample(sampler, 12, guidance=0.0), sample(sampler, 12, lambda window: nothing))


@pytest.mark.parametrize("prime", [None, torch.arange(10).reshape(5, 2)])
def test_guided_takes_do_not_depend_on_the_others(sampler, prime):
    three = sample(sampler, 15, takes=3, guidance=2.5, prime=prime)
    for take in range(1, 4):
        assert torch.equal(three[:take], sample(sampler, 15, takes=take, guidance=2.5, prime=prime))
    assert len({tuple(one.tolist()) for one in three}) == 3
    assert not torch.equal(three, sample(sampler, 15, takes=3, prime=prime))


def test_guide_extrapolates_from_unconditional_to_conditional():
    conditional, unconditional = torch.tensor([[1.0, 0.0, -2.0]]), torch.tensor([[0.5, 0.5, 0.5]])
    logits = torch.cat([conditional, unconditional])
    torch.testing.assert_close(guide(logits, 3.0), torch.tensor([[2.0, -1.0, -7.0]]))
    torch.testing.assert_close(guide(logits, 0.0), unconditional)


def test_a_longer_sound_begins_like_a_shorter_one(sampler):
    assert torch.equal(sample(sampler, 40)[:, : 20 * CLIP.rows], sample(sampler, 20))


def test_each_window_gets_its_own_condition(sampler):
    """A condition that differs from column 15 on changes codes only from the first window that reaches it."""

    def changed(window):
        return sampler.condition(features=torch.full((1, 3, 6), 1.0 if window.start < 10 else -1.0))

    before, after = sample(sampler, 30), sample(sampler, 30, changed)
    first_new = 15 * CLIP.rows  # the window that starts at 10 knows five columns
    assert torch.equal(before[:, :first_new], after[:, :first_new])
    assert not torch.equal(before[:, first_new:], after[:, first_new:])


@pytest.mark.parametrize("known", [1, 5, 10, 13])
def test_prime_is_kept_and_continued(sampler, known):
    prime = torch.randint(32, (CLIP.rows, known), generator=torch.Generator().manual_seed(9))
    grid = to_grid(sample(sampler, 20, prime=prime), CLIP.rows)[0]
    assert torch.equal(grid[:, :known], prime)
    assert not torch.equal(grid[:, known:], to_grid(sample(sampler, 20), CLIP.rows)[0][:, known:])


def test_own_codes_as_prime_give_the_same_continuation(sampler):
    """Giving the first half of a result as known must give the same second half: position, cache and random numbers agree."""
    whole = to_grid(sample(sampler, 25), CLIP.rows)[0]
    again = to_grid(sample(sampler, 25, prime=whole[:, :12]), CLIP.rows)[0]
    assert torch.equal(whole, again)


def test_on_column_gets_every_column_in_order(sampler):
    reported = []
    whole = sample(sampler, 17, takes=2, on_column=lambda known: reported.append(known.clone()))
    assert [known.shape[1] for known in reported] == [(i + 1) * CLIP.rows for i in range(17)]
    assert all(torch.equal(known, whole[:, : known.shape[1]]) for known in reported)


def test_each_take_has_its_own_random_stream():
    assert np.array_equal(draw_uniforms(1, 0, 50)[:20], draw_uniforms(1, 0, 20))
    assert not np.array_equal(draw_uniforms(1, 0, 20), draw_uniforms(1, 1, 20))
    assert not np.array_equal(draw_uniforms(1, 0, 20), draw_uniforms(2, 0, 20))


def test_next_code_follows_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    uniforms = torch.linspace(0, 1, 20001, dtype=torch.float64)[:-1]
    chosen = next_code(logits.expand(len(uniforms), -1), uniforms, 1.0, 4)
    shares = torch.bincount(chosen, minlength=4) / len(uniforms)
    torch.testing.assert_close(shares, torch.softmax(logits[0], 0), atol=1e-3, rtol=0)


def test_temperature_sharpens_and_top_k_cuts():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    uniforms = torch.linspace(0, 1, 2001, dtype=torch.float64)[:-1]
    many = logits.expand(len(uniforms), -1)
    assert set(next_code(many, uniforms, 1.0, 2).tolist()) == {1, 2}
    assert set(next_code(many, uniforms, 0.0, 4).tolist()) == {2}
    assert (next_code(many, uniforms, 0.5, 4) == 2).float().mean() > (next_code(many, uniforms, 1.0, 4) == 2).float().mean()


def test_top_k_one_is_greedy(sampler):
    assert torch.equal(sample(sampler, 12, top_k=1), sample(sampler, 12, temperature=0.0))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"top_k": 33}, "top_k is 33, but must be 1 to 32, the number of codes of this sampler"),
        ({"top_k": None}, "call `Request.resolve` first"),
        ({"temperature": None}, "call `Request.resolve` first"),
        ({"guidance": None}, "call `Request.resolve` first"),
    ],
)
def test_requests_that_do_not_fit_the_sampler_are_refused(sampler, more, words):
    with pytest.raises(ParameterError, match=words):
        sample(sampler, 2, **more)


def test_seeds_beyond_32_bits_are_distinct():
    """Regression: seed and take were two words of one list, so take 1 of seed 5 was take 0 of seed 2**32 + 5."""
    assert not np.array_equal(draw_uniforms(5, 1, 20), draw_uniforms(2**32 + 5, 0, 20))


@pytest.mark.parametrize("temperature", [1e-3, 1e-40, 1e-320])
def test_a_temperature_near_zero_is_nearly_greedy(temperature):
    """Regression: division by a temperature near zero overflowed, and the last code was chosen."""
    assert next_code(torch.tensor([[5.0, 9.0, 1.0]]), torch.tensor([0.9]), temperature, 3).tolist() == [1]


def test_top_k_keeps_ties():
    logits = torch.tensor([[1.0, 3.0, 1.0, 0.0]]).expand(400, -1)
    uniforms = torch.arange(400, dtype=torch.float64) / 400
    assert set(next_code(logits, uniforms, 1.0, 2).tolist()) == {0, 1, 2}


def test_next_code_depends_on_its_own_row_only():
    generator = torch.Generator().manual_seed(0)
    logits, uniforms = torch.randn(64, 32, generator=generator), torch.rand(64, dtype=torch.float64, generator=generator)
    together = next_code(logits, uniforms, 0.9, 7)
    alone = [next_code(logits[row : row + 1], uniforms[row : row + 1], 0.9, 7) for row in range(64)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_extreme_uniforms_respect_top_k(uniform):
    """A code outside the top k is never chosen, not even the first or the last code."""
    logits = torch.tensor([[-9.0, 1.0, 1.0, -9.0]])
    assert next_code(logits, torch.tensor([uniform], dtype=torch.float64), 1.0, 2).item() in (1, 2)


def test_next_code_passes_a_chi_square_test():
    """Random numbers as sampling draws them; 15 degrees of freedom, and 37.7 is exceeded once in a thousand."""
    logits = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    uniforms = torch.from_numpy(draw_uniforms(11, 0, 20000))
    counts = torch.bincount(next_code(logits.expand(20000, -1), uniforms, 1.3, 16), minlength=16)
    expected = torch.softmax(logits[0].double() / 1.3, 0) * 20000
    assert ((counts - expected).square() / expected).sum() < 37.7


@pytest.mark.parametrize(
    ("temperature", "top_k", "words"), [(-1.0, 3, "temperature is -1"), (0.0, 0, "top_k is 0"), (1.0, 4, "top_k is 4")]
)
def test_next_code_refuses_values_out_of_range(temperature, top_k, words):
    with pytest.raises(ParameterError, match=words):
        next_code(torch.zeros(1, 3), torch.zeros(1), temperature, top_k)


@pytest.mark.parametrize(
    ("prime", "words"),
    [
        (torch.zeros(4, 2, dtype=torch.long), "4 rows of known codes were given, this sampler writes columns of 5"),
        (torch.full((5, 2), 32), "known codes from 32 to 32 were given, this sampler has 0 to 31"),
    ],
)
def test_prime_that_does_not_fit_is_refused(sampler, prime, words):
    with pytest.raises(ParameterError, match=words):
        sample(sampler, 6, prime=prime)


@pytest.mark.parametrize("n_columns", [0, -3])
def test_no_columns_are_refused(sampler, n_columns):
    with pytest.raises(ParameterError, match=f"n_columns is {n_columns}, but must be 1"):
        sample(sampler, n_columns)
