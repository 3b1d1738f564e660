"""Leads: exemplars of the classes that are seen or named, which sounds continue."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unsilent.batch import run
from unsilent.checkpoints.bundle import load_exemplars
from unsilent.checkpoints.store import save_checkpoint
from unsilent.editing.opening import decode_sound, open_result
from unsilent.editing.retake import Retake, retake
from unsilent.errors import CheckpointError, ParameterError
from unsilent.generation.causal import CausalObserver
from unsilent.generation.leads import choose_exemplars, known_codes, lead_columns
from unsilent.generation.sampling import sample_codes
from unsilent.generation.sidecar import find_sidecar
from unsilent.generation.streaming import join, render_codes
from unsilent.generation.windows import Window
from unsilent.models.exemplars import Exemplars, ExemplarsConfig
from unsilent.outputs import plan
from unsilent.pipeline import Pipeline
from unsilent.request import Request
from unsilent.vision.scene import Scene

EACH, COLUMNS = 4, 5


@pytest.fixture(scope="module")
def exemplars(seeing):
    """The codes of class c are 4 c to 4 c + 3, one for each exemplar; those of silence are 15."""
    made = Exemplars(ExemplarsConfig(classes=3, each=EACH, rows=seeing.clip.rows, columns=COLUMNS))
    made.codes.copy_(torch.arange(3 * EACH).view(3, EACH, 1, 1).expand_as(made.codes))
    made.silence.fill_(15)
    return made


@pytest.fixture(scope="module")
def led(seeing, exemplars):
    """The tiny model with exemplars."""
    return Pipeline(replace(seeing.parts, exemplars=exemplars), torch.device("cpu"))


@pytest.fixture
def video(make_clip):
    """Three seconds."""
    return make_clip("three.mp4", n_frames=75)


def leads_of(pipeline, scene, **fields):
    """Leads of each shot, `[2, sounds, rows, columns]`, and the request."""
    request = pipeline.resolve(**fields)
    plan, observation, request = pipeline.plan_and_observe(scene, pipeline.clip.columns_for(round(scene.seconds * 22050)), request)
    return known_codes(pipeline.parts, plan, observation, request).leads, request


def test_sounds_of_a_named_class_continue_its_exemplars(led, video):
    (lead,), _ = leads_of(led, Scene(video, 3.0), label="dog", takes=6, candidates=1)
    assert lead.shape == (2, 6, led.clip.rows, COLUMNS)
    firsts = lead[0, :, 0, 0].tolist()
    assert sorted(firsts[:4]) == [4, 5, 6, 7]  # all before any again
    assert firsts[4:] == firsts[:2]
    assert lead[1].unique().tolist() == [15]


def test_windows_continue_the_same_exemplars_as_long_as_the_class_stays_the_same(led, make_clip):
    """Thirty seconds of two pictures without a cut, which show different classes."""
    images = [np.full((48, 64, 3), grey, np.uint8) for grey in (10, 240)]
    both = make_clip("both.mp4", n_frames=30, fps=1, images=lambda index: images[index >= 15])
    leads, _ = leads_of(led, Scene(both, 30.0), takes=3, candidates=1, scenes="off")
    assert len(leads) > 3
    firsts = [lead[0, :, 0, 0] for lead in leads]
    classes = [set((first // EACH).tolist()) for first in firsts]
    assert all(len(one) == 1 for one in classes)
    assert len(set.union(*classes)) == 2
    assert len({tuple((first % EACH).tolist()) for first in firsts}) == 1
    assert {tuple(lead.shape) for lead in leads} == {(2, 3, led.clip.rows, COLUMNS)}
    longer, _ = leads_of(led, Scene(both, 30.0), takes=5, candidates=1, scenes="off")
    assert all(torch.equal(one, other[:, :3]) for one, other in zip(leads, longer, strict=True))


def test_exemplars_change_the_sounds_but_not_their_length(seeing, led, video):
    plain, made, again = (one.takes(video, 8, guidance=6.0) for one in (seeing, led, led))
    assert made == again
    assert [one.codes.shape for one in made] == [one.codes.shape for one in plain]
    assert any(not np.array_equal(one.codes, other.codes) for one, other in zip(made, plain, strict=True))


def test_a_sound_does_not_depend_on_how_many_are_made(led, video):
    many, few = led.takes(video, 3, seed=5), led.takes(video, 2, seed=5)
    assert all(np.array_equal(one.codes, other.codes) for one, other in zip(few, many, strict=False))


def test_takes_of_another_seed_begin_with_other_exemplars(exemplars):
    orders = {tuple(choose_exemplars(exemplars, Request(seed=seed, takes=EACH)).tolist()) for seed in range(12)}
    assert len(orders) > 3


def test_each_shot_continues_exemplars_of_its_own(led, make_clip):
    images = [np.full((48, 64, 3), grey, np.uint8) for grey in (10, 240)]
    both = make_clip("both.mp4", n_frames=150, images=lambda index: images[index >= 75])
    leads, _ = leads_of(led, Scene(both, 6.0), takes=3, candidates=1)
    assert len(leads) == 2
    assert len(leads_of(led, Scene(both, 6.0), takes=3, candidates=1, scenes="off")[0]) == 1


def test_a_shot_of_the_same_class_continues_the_shot_before(led, make_clip):
    """Two shots: of two classes, and of one, because it is named. At a break, the sounds are blended, also when they are decoded again."""
    images = [np.full((48, 64, 3), grey, np.uint8) for grey in (10, 240)]
    both = make_clip("both.mp4", n_frames=150, images=lambda index: images[index >= 75])
    cut = round(3.0 / led.clip.column_seconds)
    two, one = (led.plan_and_observe(Scene(both, 6.0), 32, led.resolve(label=label))[0] for label in (None, "dog"))
    assert [(window.new, window.led) for window in two.windows] == [(0, COLUMNS), (cut, COLUMNS)]
    assert [(window.new, window.led) for window in one.windows] == [(0, COLUMNS), (cut, COLUMNS * 2 // 3)]
    assert (two.breaks, one.breaks) == ((cut,), ())
    made = led.generate(both, candidates=1)
    assert made.breaks == (cut,)
    assert decode_sound(led.codec, made.codes, len(made.waveform), made.request, made.breaks).tobytes() == made.waveform.tobytes()
    assert decode_sound(led.codec, made.codes, len(made.waveform), made.request).tobytes() != made.waveform.tobytes()


def test_retakes_keep_and_renew_breaks(led, write_clip, tmp_path):
    """A break outside the stretch stays, one in it goes with a label for the whole stretch, and the sidecar has them."""
    images = [np.full((48, 64, 3), grey, np.uint8) for grey in (10, 240)]
    video = write_clip(tmp_path / "a.mp4", n_frames=150, images=lambda index: images[index >= 75])
    (made,) = run(led, plan([video], None), Request(), sidecar=True)
    opened = open_result(led, made.out, find_sidecar(made.out))
    cut = (round(3.0 / led.clip.column_seconds),)
    assert opened.breaks == cut

    def breaks(start, stop, **fields):
        (retaken,) = retake(led, opened, Retake(start, stop, candidates=1, **fields))
        return retaken.made.breaks

    assert breaks(0.5, 1.5) == breaks(2, 4) == breaks(0.5, 1.5, label="dog") == cut
    assert breaks(2, 4, label="dog") == breaks(2, 4, layer="mix") == ()


@pytest.mark.parametrize("label", [None, "dog"])
def test_streams_continue_the_exemplar_of_the_first_candidate(led, make_clip, label):
    scene = Scene(make_clip("still.mp4", n_frames=75, images=lambda index: np.full((48, 64, 3), 90, np.uint8)), 3.0)
    observer = CausalObserver.of_video(scene, led.parts)
    observer.read(74)
    found = observer.exemplar(Window(-COLUMNS, COLUMNS, led.clip.columns, COLUMNS), led.resolve(label=label, seed=3, stream=True))
    (lead,), _ = leads_of(led, scene, label=label, seed=3)
    assert torch.equal(found, lead[:, 0])


def test_streams_with_exemplars_are_the_whole_byte_by_byte(seeing, led, make_clip):
    """Over several windows, which begin earlier by the exemplar's columns."""
    long = make_clip("long.mp4", n_frames=40, fps=2)
    whole = join(list(led.stream(long, seed=5)))
    made, plain = (one.generate(long, seed=5, stream=True) for one in (led, seeing))
    assert whole.waveform.tobytes() == made.waveform.tobytes()
    assert render_codes(led.codec, made.codes, len(made.waveform)).tobytes() == made.waveform.tobytes()
    assert made.codes.shape == plain.codes.shape
    assert not np.array_equal(made.codes, plain.codes)


def test_retakes_continue_their_own_sound_and_exemplars_where_it_is_out_of_reach(seeing, led, write_clip, tmp_path):
    """Without exemplars there, `led` retakes like the model that has none."""
    (made,) = run(led, plan([write_clip(tmp_path / "a.mp4", n_frames=8, fps=1)], None), Request(scenes="off", guidance=8.0), sidecar=True)
    opened = open_result(led, made.out, find_sidecar(made.out))

    def columns_alike(start, stop, **fields):
        one, other = (retake(model, replace(opened, **fields), Retake(start, stop, candidates=1))[0].made.codes for model in (led, seeing))
        return [column for column in range(one.shape[1]) if np.array_equal(one[:, column], other[:, column])]

    n_columns = opened.codes.shape[1]
    assert columns_alike(3, 5) == list(range(n_columns))
    begin = columns_alike(0, 2)
    assert len(begin) < n_columns
    assert begin[-1] == n_columns - 1
    n_longer = led.clip.columns_for(30 * 22050)
    longer = columns_alike(8, 30)
    assert len(longer) < n_longer
    assert longer[: n_columns + led.clip.hop_columns] == list(range(n_columns + led.clip.hop_columns))
    assert columns_alike(8, 30, seen={}) == list(range(n_longer))
    assert columns_alike(0, 2, request=opened.request.model_copy(update={"prime": "own"})) == list(range(n_columns))


@pytest.mark.parametrize("fields", [{"prime": "own"}, {"prompt_track": ({"start": 0, "stop": 1, "label": "dog"},)}])
def test_primes_and_classes_over_time_have_no_exemplars(led, exemplars, fields):
    assert lead_columns(Request(**fields), led.clip, exemplars) == 0
    assert lead_columns(Request(), led.clip, exemplars) == COLUMNS
    assert lead_columns(Request(), led.clip, None) == 0


def test_led_windows_need_their_leads(led, video):
    request = led.resolve(label="dog")
    plan, observation, request = led.plan_and_observe(Scene(video, 3.0), 16, request)
    with pytest.raises(ParameterError, match="0 leads were given for 1 led windows"):
        sample_codes(led.parts.sampler, plan.windows, led.conditions(plan, observation, request), request)


def test_exemplars_of_another_model_are_refused(tmp_path, seeing, exemplars):
    sampler = seeing.parts.sampler.config
    assert load_exemplars(tmp_path, sampler) is None
    save_checkpoint(tmp_path / "exemplars", "exemplars", "everyday", exemplars.config, exemplars.state_dict(), {})
    assert torch.equal(load_exemplars(tmp_path, sampler).codes, exemplars.codes)
    with pytest.raises(CheckpointError, match=r"damaged: codes must be 0 to 13"):
        load_exemplars(tmp_path, sampler.model_copy(update={"codes": 14}))
    other = sampler.model_copy(update={"condition": sampler.condition.model_copy(update={"n_classes": 5})})
    with pytest.raises(CheckpointError, match=r"the exemplars have 3 classes, the sampler 5"):
        load_exemplars(tmp_path, other)
