"""Wrong options and values: suggestions, errors before torch is imported; help, examples and completion."""

import pydoc
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import typer
from PIL import Image

import unsilent as package
from unsilent.cli.main import app, run

COMMANDS = ["generate", "reconstruct", "encode", "decode", "sample", "train", "classify", "evaluate"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "generate --prompt dog",
            "there is no option --prompt: use --label, with a class name of `unsilent models show everyday` or free words.",
        ),
        ("generate --negative-prompt x", "there is no option --negative-prompt: use --avoid, with class names or words"),
        ("generate --negative_prompt x", "there is no option --negative_prompt: use --avoid"),
        ("generate --duration 8", "there is no option --duration: use --seconds."),
        ("generate --sample-rate 48000", "there is no option --sample-rate: use --rate."),
        ("generate --cfg 3", "there is no option --cfg: use --guidance."),
        ("generate --cfg-strength=3", "there is no option --cfg-strength: use --guidance."),
        ("generate --steps 25", "there is no option --steps: sampling codes has no diffusion steps; see --top-k and --temperature."),
        ("generate --num-steps 25", "there is no option --num-steps: sampling codes has no diffusion steps"),
        ("generate --output x", "there is no option --output: use -o."),
        ("reconstruct --output x", "there is no option --output: use -o."),
        ("generate --variants 3", "there is no option --variants: use --takes."),
        ("generate -n 3", "there is no option -n: use --takes."),
        ("generate --sed 3", "there is no option --sed; did you mean --seed?"),
        ("generate --temp 3", "there is no option --temp; did you mean --temperature?"),
        ("generate --top_k 3", "there is no option --top_k; did you mean --top-k?"),
        ("generate --loud", "there is no option --loud; `unsilent generate --help` lists all."),
        ("generate --zzz", "there is no option --zzz; `unsilent generate --help` lists all."),
        ("generate a.mp4 --seed", "--seed requires an argument."),
        ("live - --raw 0x240@30", "--raw is 0x240@30, but must be the format of the frames on standard input, such as 320x240@30."),
        ("live - --raw 1x1@0", "--raw is 1x1@0, but must be the format"),
        ("models fetch --prompt x", "there is no option --prompt; `unsilent models fetch --help` lists all."),
        ("--loud", "there is no option --loud; `unsilent --help` lists all."),
        ("generat a.mp4", "there is no command 'generat'; did you mean 'generate'?"),
        ("sing", "there is no command 'sing'; `unsilent --help` shows the usage."),
        ("data", "the name of a command is missing; `unsilent data --help` shows the usage."),
        ("reconstruct a b -o c.wav", "unexpected argument b; `unsilent reconstruct --help` shows the usage."),
    ],
)
def test_wrong_options_give_an_error_of_one_sentence(refused, capsys, arguments, sentence):
    code = run(shlex.split(arguments))
    out, err = capsys.readouterr()
    refused((code, out, err.splitlines()), f"^unsilent: {re.escape(sentence)}")


def test_mistakes_are_found_without_torch(tmp_path, make_clip):
    """In one process of its own, where nothing has imported torch before."""
    make_clip("a.mp4", n_frames=5)
    (tmp_path / "text.mp4").write_text("no video")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    wrong = [
        "generate gone.mp4", "generate https://example.com/a.mp4", "generate text.mp4", "generate a.png", "generate a.mp4 -o a.wav",
        "generate a.mp4 -o a.mp4", "generate a.mp4 -o text.mp4/x.mp4", "generate a.mp4 --seed -1", "generate a.mp4 --guidance inf",
        "generate a.mp4 --prompt dog", "generate a.mp4 --model evryday", "generate a.mp4 --model vggsound-class",
        "generate a.mp4 --model .", "generate a.mp4 --label xyzzy", "generate a.mp4 --cues gone.csv",
        "generate a.mp4 --mute 4-2", "generate a.mp4 --export xyz", "generate a.mp4 --stems", "generate a.mp4 --rate 8000", "cues gone.mp4",
        "generate a.mp4 --top-k 9999", "reconstruct gone.wav -o b.wav",
        "reconstruct a.mp4 -o b.mp4", "reconstruct a.mp4 -o b.wav --model evryday", "reconstruct a.mp4 -o b.wav",
        "encode a.mp4 -o a.wav", "encode a.mp4 -o a.uns", "decode a.mp4 -o b.wav", "classify gone.wav", "sample gone.parquet -o out",
        "train gone.toml", "train text.mp4", "evaluate --reference gone -o out", "evaluate --reference . -o out",
        "evaluate --reference . -o out --classifier everyday", "evaluate --reference . --generated . -o out --classifier gone",
        "data extract gone.parquet -o out", "data extract --codebook gone -o out",
        "models show evryday", "models fetch evryday", "models fetch everyday", "models convert gone.ckpt -o out",
    ]  # fmt: skip
    code = f"""
import sys
from unsilent.cli.main import run
for command in {wrong}:
    assert run(command.split()) == 2, command
    assert "torch" not in sys.modules, command
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(wrong)


def test_progress_is_on_the_screen_before_torch_is_imported(tmp_path, make_clip):
    make_clip("a.mp4", n_frames=5, sound=np.zeros((1, 4410)))
    commands = [
        "generate a.mp4", "reconstruct a.mp4 -o b.wav", "encode a.mp4 -o b.uns", "sample a.mp4 -o out", "classify a.mp4",
        "evaluate --reference . --generated . -o out --classifier everyday",
    ]  # fmt: skip
    code = f"""
import sys
from unsilent.cli import terminal
from unsilent.cli.main import run
class Shown(BaseException):
    pass
def show(bar):
    raise Shown
terminal.Bar.__enter__ = show
for command in {commands}:
    try:
        sys.exit(f"{{command}} ended with {{run(command.split())}}")
    except Shown:
        assert "torch" not in sys.modules, command
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["data", "extract"], ["models", "fetch"]], ids=" ".join)
def test_short_option_h_prints_the_help(capsys, command):
    assert run([*command, "-h"]) == 0
    assert f"Usage: unsilent {' '.join(command)}".rstrip() in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_in_the_help_parse(capsys, name):
    run([name, "--help"])
    shown = re.findall(rf"^ +unsilent {name} (.*)", capsys.readouterr().out, re.MULTILINE)
    assert len(shown) >= 2
    for example in shown:
        typer.main.get_command(app).commands[name].make_context(name, shlex.split(example.partition(" | ")[0]))


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "unsilent", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"unsilent {package.__version__}\n"


def test_the_shell_completes_options_choices_and_models(monkeypatch, capsys):
    for words, wanted in (("generate --dev", "--device"), ("generate --device cu", "cuda"), ("generate --model every", "everyday")):
        monkeypatch.setenv("_UNSILENT_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", f"unsilent {words}")
        monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
        with pytest.raises(SystemExit):
            run([])
        assert capsys.readouterr().out.split() == [wanted]


def test_the_package_lists_its_names():
    assert {"Clip", "Codec", "Generation", "Pipeline", "Request", "load"} <= set(dir(package))
    assert all(getattr(package, name).__doc__ for name in package.__all__ if name != "__version__")
    assert "pipeline.generate(" in pydoc.render_doc(package, renderer=pydoc.plaintext)
