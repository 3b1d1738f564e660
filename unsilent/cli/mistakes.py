"""Error messages for wrong command lines, and hints for options of similar programs."""

import re
from typing import Any

import typer

from unsilent.errors import did_you_mean

# Options of similar programs, and what to use in `unsilent generate` instead.
_FOREIGN = {
    ("--prompt", "--text", "--caption", "--description"): "use --label, with a class name of `unsilent models show everyday` or free words",
    ("--negative-prompt", "--neg-prompt"): "use --avoid, with class names or words for several classes",
    ("--duration", "--length", "--audio-length"): "use --seconds",
    ("--sample-rate", "--sampling-rate", "--sr"): "use --rate",
    ("--cfg", "--cfg-strength", "--cfg-scale", "--cfg-coef", "--guidance-scale"): "use --guidance",
    ("--steps", "--num-steps", "--num-inference-steps"): "sampling codes has no diffusion steps; see --top-k and --temperature",
    ("--top-p",): "use --top-k",
    ("--output", "--output-dir", "--output-path", "--out-dir", "--save-dir"): "use -o",
    ("--variants", "--num-samples", "--n-samples", "--samples", "--batch-size", "-n"): "use --takes",
    ("--video", "--video-path", "--input", "-i"): "give the videos without an option: unsilent generate VIDEO",
    ("--checkpoint", "--ckpt", "--weights", "--variant"): "use --model",
    ("--dtype", "--fp16", "--bf16", "--full-precision"): "use --precision",
    ("--gpu", "--cuda", "--cpu"): "use --device",
    ("--audio-only", "--skip-video-composite"): "use --wav to write the sound beside the video",
}
_ANSWERS = {option: answer for options, answer in _FOREIGN.items() for option in options}
_REWRITES = {  # patterns in typer's messages, and their replacements
    r"^Missing (?:argument|option) '(.*?)'.*": r"\1 is missing",
    "^Missing command": "the name of a command is missing",
    "^No such command": "there is no command",
    r"\. Did you mean ('.*')\?": r"; did you mean \1?",
    r"^Got unexpected extra argument\(s\) \((.*)\)": r"unexpected argument \1",
}
_NEAR = 0.75  # minimum similarity of an option's spelling, in 0..1, to suggest it; dashes count


def explain(error: typer.TyperException) -> str:
    """Turn an error of typer into one sentence."""
    if hasattr(error, "possibilities"):
        return _unknown_option(error.option_name, error.ctx)
    if type(error.__cause__).__name__ == "ValidationError":
        return _wrong_value(error.__cause__.errors()[0], max(error.param.opts, key=len))
    message = error.format_message().rstrip(".")
    if hasattr(error, "option_name"):
        return f"{message.replace(f'Option {error.option_name!r}', error.option_name)}."
    for theirs, ours in _REWRITES.items():
        message = re.sub(theirs, ours, message)
    return message if message.endswith("?") or error.ctx is None else f"{message}; `{error.ctx.command_path} --help` shows the usage."


def _wrong_value(problem: dict[str, Any], name: str) -> str:
    from unsilent.config import explain as explain_problem

    if choice := re.search("('.*') is not one of (.*), (.*)[.]", problem["msg"]):
        return f"{name} is {choice[1]}, but must be {choice[2]} or {choice[3]}."
    return explain_problem(problem, name).replace(f" is {problem['input']!r},", f" is {problem['input'] or 'empty'},")


def _unknown_option(option: str, ctx: Any) -> str:
    answer = _ANSWERS.get(option.replace("_", "-"))
    if answer and (ctx.command.name == "generate" or answer == "use -o"):
        return f"there is no option {option}: {answer}."
    known = [name for param in ctx.command.params for name in param.opts if name.startswith("--")]
    longer = [name for name in known if name.startswith(option)]
    near = did_you_mean(option, longer or known, _NEAR) if option.startswith("--") else ""
    return f"there is no option {option}; {near or f'`{ctx.command_path} --help` lists all.'}".rstrip()
