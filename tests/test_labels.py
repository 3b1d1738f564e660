"""Class names: those of the data sets, lookup in any spelling, suggestions."""

from pathlib import Path

import pytest

from unsilent import presets
from unsilent.errors import ParameterError
from unsilent.labels import classes, find_label, labels_meant, nearest_label

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
BOTH = pytest.mark.parametrize("data", ["vggsound", "vas"])


@BOTH
def test_classes_are_as_many_as_the_models_have(data):
    assert len(classes(data)) == presets.N_CLASSES[data]


@BOTH
def test_classes_are_sorted_unique_and_stripped(data):
    names = classes(data)
    assert list(names) == sorted(set(names))
    assert all(name == " ".join(name.split()) != "" for name in names)


def test_classes_have_the_published_numbers():
    assert [classes("vggsound").index(name) for name in ("air conditioning noise", "dog barking", "zebra braying")] == [0, 62, 308]
    assert classes("vas").index("fireworks") == 4


def test_classes_equal_the_reference_list():
    path = REFERENCE / "vggsound_classes.txt"
    if not path.exists():
        pytest.skip("needs the reference list of class names")
    assert list(classes("vggsound")) == path.read_text(encoding="utf-8").splitlines()


def test_classes_refuses_other_data_sets():
    with pytest.raises(ParameterError, match="there are no classes of 'audioset'; choose vas or vggsound"):
        classes("audioset")


@BOTH
def test_find_label_ignores_case_spaces_underscores_and_hyphens(data):
    """No two names become equal by it."""
    names = classes(data)
    for number, name in enumerate(names):
        for typed in (name, name.upper(), f"  {name.replace(' ', '   ')} ", name.replace(" ", "_"), name.replace(" ", "-")):
            assert find_label(typed, names) == number, typed


def test_find_label_ignores_hyphens_of_the_name():
    names = classes("vggsound")
    assert names[find_label("Dog bow wow", names)] == "dog bow-wow"


def test_find_label_prefers_an_exact_match():
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
def test_find_label_suggests_similar_names(label, wanted):
    found = suggestions(label)
    assert set(wanted) <= set(found)
    assert found[0] in wanted
    assert len(found) <= 5


@pytest.mark.parametrize("find", [find_label, nearest_label])
def test_very_long_labels_are_refused(find):
    """Comparing them with all classes would take seconds."""
    with pytest.raises(ParameterError, match="has 100000 characters, but a label has at most 200"):
        find("[" * 100_000, classes("vggsound"))


def test_find_label_suggests_at_most_five():
    assert len(suggestions("playing")) == 5


def test_find_label_names_the_command_that_lists_classes():
    message = r"^no class is named 'dgo' among the model's 8; did you mean 'dog'\? `unsilent models show NAME` lists all\.$"
    with pytest.raises(ParameterError, match=message):
        find_label("dgo", classes("vas"))


@pytest.mark.parametrize("label", ["7", "0", "", "qqqq", "with"])
def test_find_label_refuses_numbers_and_nonsense_without_suggestions(label):
    with pytest.raises(ParameterError, match=f"no class is named '{label}' among the model's 309; `unsilent models show NAME` lists all"):
        find_label(label, classes("vggsound"))


def test_words_mean_a_kind_a_family_or_the_nearest_class():
    names = ("baby_cry", "crowd", "dog", "drum", "footsteps", "footsteps_snow", "piano", "snow")
    assert labels_meant("music", names) == ("drum", "piano")
    assert labels_meant("Speech", names) == ("baby_cry", "crowd")
    assert labels_meant("footsteps", names) == ("footsteps", "footsteps_snow")
    assert labels_meant("baby", names) == ("baby_cry",)
    assert labels_meant("barking", names) == ("dog",)
    with pytest.raises(ParameterError, match="no class is named 'qwertz'"):
        labels_meant("qwertz", names)


def test_a_class_name_means_this_class_alone():
    names = ("door", "doorbell", "hammer", "hammer_nail", "wind", "wind_chimes")
    assert labels_meant("Wind", names) == ("wind",)
    assert labels_meant("wind chimes", names) == ("wind_chimes",)
    assert labels_meant("hammer", names) == ("hammer", "hammer_nail"), "a family of the table"


def test_comments_of_the_table_are_no_kinds():
    with pytest.raises(ParameterError, match="no class is named 'the'"):
        labels_meant("the", ("class", "dog"))
