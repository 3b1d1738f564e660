"""The `unsilent` command: its subcommands. Errors are printed as one line on stderr, with exit code 2."""

import logging
import os
import sys

import typer

from unsilent.cli import classify, codec, cues, data, evaluate, generate, live, models, retake, sample, serve, train
from unsilent.cli.mistakes import explain
from unsilent.cli.terminal import Interrupts, say
from unsilent.errors import UnsilentError, how_to_install
from unsilent.version import __version__

INTERRUPTED = 130  # 128 + SIGINT by convention of shells; typer returns it after Ctrl-C

app = typer.Typer(
    name="unsilent", pretty_exceptions_enable=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)
app.command("generate", epilog=generate.EXAMPLES)(generate.generate)
app.command("cues", epilog=cues.EXAMPLES)(cues.cues)
app.command("retake", epilog=retake.EXAMPLES)(retake.retake)
app.command("live", epilog=live.EXAMPLES)(live.live)
for name, command in (("reconstruct", codec.reconstruct), ("encode", codec.encode), ("decode", codec.decode)):
    app.command(name, epilog=codec.EXAMPLES[name])(command)
app.command("sample", epilog=sample.EXAMPLES)(sample.sample)
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")
app.command("train", epilog=train.EXAMPLES)(train.train)
app.command("classify", epilog=classify.EXAMPLES)(classify.classify)
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command("serve", epilog=serve.SERVE_EXAMPLES)(serve.serve)
app.command("web", epilog=serve.WEB_EXAMPLES)(serve.web)


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"unsilent {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def root(version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version.")) -> None:
    """Generate sound for silent videos."""


def main() -> None:
    """Run the command line. Exit codes: 0 success, 2 error, 3 some of several inputs failed, 130 interrupted."""
    Interrupts.heed()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be valid text
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: arguments of the command line, without the program's name.
    """
    try:
        code = typer.main.get_command(app).main(arguments or ["--help"], prog_name="unsilent", standalone_mode=False) or 0
        return _interrupted() if code == INTERRUPTED else code
    except typer.TyperException as error:
        return _fail(explain(error))
    except UnsilentError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except ModuleNotFoundError as error:
        return _fail(f"this needs the package {error.name}; {how_to_install('train')}.")
    except OSError as error:
        return _fail(f"{error.filename or 'the system'}: {error.strerror or error}.")
    except (MemoryError, RuntimeError, ImportError) as error:
        from unsilent.speed.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        return _fail("the memory is not enough; end other programs, or ask for a shorter sound, fewer takes or fewer candidates.")


def _fail(sentence: str, code: int = 2) -> int:
    say(sentence)
    return code


def _interrupted() -> int:
    return _fail("interrupted; finished results are kept.", INTERRUPTED)
