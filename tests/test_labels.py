"""Class names: the data sets' own, found however a person types them, and near ones suggested when there is none."""

import math
from pathlib import Path

import pytest
import torch

from unsilent import presets
from unsilent.errors import ParameterError
from unsilent.labels import classes, find_label, most_likely

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
BOTH = pytest.mark.parametrize("data", ["vggsound", "vas"])


@BOTH
def test_as_many_as_the_models_have_numbers(data):
    assert len(classes(data)) == presets.N_CLASSES[data]


@BOTH
def test_sorted_without_repeats_or_strange_spaces(data):
    names = classes(data)
    assert list(names) == sorted(set(names))
    assert all(name == " ".join(name.split()) != "" for name in names)


def test_some_numbers_of_the_published_order():
    assert [classes("vggsound").index(name) for name in ("air conditioning noise", "dog barking", "zebra braying")] == [0, 62, 308]
    assert classes("vas").index("fireworks") == 4


def test_same_as_the_reference_list():
    path = REFERENCE / "vggsound_classes.txt"
    if not path.exists():
        pytest.skip("the reference list of class names is not here")
    assert list(classes("vggsound")) == path.read_text(encoding="utf-8").splitlines()


def test_other_data_sets_are_refused():
    with pytest.raises(ParameterError, match="classes of 'audioset' were asked for; known are those of vas and vggsound"):
        classes("audioset")


@BOTH
def test_every_name_is_found_in_any_spelling(data):
    """No two names fall together when capitals, spaces, underscores and hyphens are ignored."""
    names = classes(data)
    for number, name in enumerate(names):
        for typed in (name, name.upper(), f"  {name.replace(' ', '   ')} ", name.replace(" ", "_"), name.replace(" ", "-")):
            assert find_label(typed, names) == number, typed


def test_hyphens_of_the_name_itself_may_be_left_out():
    names = classes("vggsound")
    assert names[find_label("Dog bow wow", names)] == "dog bow-wow"


def test_an_exact_name_wins_over_one_that_only_looks_alike():
    assert find_label("a-b", ["A B", "a b", "a-b"]) == 2
    assert find_label("a b", ["A B", "a b", "a-b"]) == 1


def suggestions(label, data="vggsound"):
    with pytest.raises(ParameterError) as caught:
        find_label(label, classes(data))
    return [name for name in str(caught.value).split("?")[0].split("'") if name in classes(data)]


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        ("dog braking", ["dog barking"]),  # spelling
        ("playing violine", ["playing violin, fiddle"]),
        ("barking", ["dog barking", "fox barking", "sea lion barking", "chinchilla barking"]),  # a word
        ("sneeze", ["people sneezing"]),  # the beginning of a word
        ("a person who whispers", ["people whispering"]),
        ("FIRE TRUCK", ["fire truck siren", "ice cream truck, ice cream van"]),
    ],
)
def test_near_names_are_suggested(label, wanted):
    found = suggestions(label)
    assert set(wanted) <= set(found)
    assert found[0] in wanted
    assert len(found) <= 5


def test_at_most_five_are_suggested():
    assert len(suggestions("playing")) == 5


def test_the_message_is_one_sentence_with_a_way_out():
    said = r"^no class is named 'dgo' among the model's 8; did you mean 'dog'\? `unsilent models show NAME` lists all\.$"
    with pytest.raises(ParameterError, match=said):
        find_label("dgo", classes("vas"))


@pytest.mark.parametrize("label", ["7", "0", "", "qqqq", "with"])
def test_numbers_and_nonsense_are_refused_without_a_guess(label):
    with pytest.raises(ParameterError, match=f"no class is named '{label}' among the model's 309; `unsilent models show NAME` lists all"):
        find_label(label, classes("vggsound"))


def test_scores_become_words():
    said = most_likely([0.0, math.log(6), math.log(2), -1000.0], ["a", "b", "c", "d"], n=2)
    assert [name for name, _ in said] == ["b", "c"]
    assert [share for _, share in said] == pytest.approx([6 / 9, 2 / 9])


def test_a_classifier_says_what_it_heard():
    logits = torch.zeros(309)
    logits[classes("vggsound").index("dog barking")] = 9
    assert most_likely(logits.tolist(), classes("vggsound"))[0][0] == "dog barking"
    assert len(most_likely(logits.tolist(), classes("vggsound"))) == 10


def test_scores_of_other_classes_are_counted():
    with pytest.raises(ParameterError, match="309 scores given for 8 classes"):
        most_likely([0.0] * 309, classes("vas"))
