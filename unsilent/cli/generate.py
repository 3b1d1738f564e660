"""`unsilent generate`: make sound for videos."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column

from unsilent.choices import MAX_TAKES, Bits, Original, PrimeKeep, Scenes
from unsilent.cli import live, options
from unsilent.cli.terminal import Bar, print_table, say

if TYPE_CHECKING:
    from unsilent.request import Request

SOME = 5  # names in a sentence about many files
EXAMPLES = options.examples(
    "unsilent generate clip.mp4",
    "unsilent generate clip.mp4 -o with_sound.mp4 --seed 7 --takes 4",
    "unsilent generate videos -o out --wav --picture",
    "unsilent generate clip.mp4 --original duck --json",
    "unsilent generate clip.mp4 --stream -o - | aplay -f S16_LE -r 22050",
    "unsilent generate clip.mp4 --prime own --prime-seconds 2 --seconds 20",
    "unsilent generate clip.mp4 --cues cues.csv --label drum --mute 2-4.5",
)


def generate(
    inputs: Annotated[list[Path], typer.Argument(metavar="VIDEO|FOLDER...", help="Videos, or folders of them.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A file for one video, else a folder. [default: STEM.sound.* beside it]")
    ] = None,
    model: options.Model = "everyday",
    seed: options.Seed = 0,
    takes: Annotated[int, typer.Option(min=1, max=MAX_TAKES, help="Different sounds for each video.")] = 1,
    top_k: options.TopK = None,
    temperature: options.Temperature = None,
    guidance: options.Guidance = None,
    motion: options.Motion = True,
    label: Annotated[str | None, typer.Option(help="What sounds: a class name. [default: what the model sees]")] = None,
    avoid: options.Avoid = None,
    like: Annotated[str | None, typer.Option(metavar="FILE", help="A reference sound: most similar takes first.")] = None,
    candidates: options.Candidates = None,
    cues: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|auto", help="When it sounds: .csv, .mid, .edl, .otio or .rpp; auto: the impacts seen, see `unsilent cues`."
        ),
    ] = None,
    prompt_track: Annotated[Path | None, typer.Option(metavar="FILE", help="What sounds over time: a table of start, stop, label.")] = None,
    mute: Annotated[
        list[str] | None, typer.Option(metavar="S-S", help="A silent stretch, in seconds: 2-4.5. Several are possible.")
    ] = None,
    scenes: Annotated[Scenes, typer.Option(help="Sound what follows a cut by itself, or all as one.")] = "auto",
    seconds: Annotated[float | None, typer.Option(metavar="S", help="Length of the sound. [default: that of the video]")] = None,
    prime: Annotated[str | None, typer.Option(metavar="FILE|own", help="Begin with a file's sound, or the video's own.")] = None,
    prime_seconds: Annotated[float | None, typer.Option(metavar="S", help="How much of it. [default: 3]")] = None,
    prime_keep: Annotated[PrimeKeep, typer.Option(help="Keep its codes, or its very samples, cross-faded into the rest.")] = "codes",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    vocoder: options.Vocoder = "neural",
    stream: Annotated[
        bool, typer.Option("--stream", help="Sound while it is made: -o FILE.wav grows, -o - is 16-bit PCM on standard output.")
    ] = False,
    original: Annotated[Original, typer.Option(help="The video's own sound: drop, keep (mixed in), duck (mixed in, quieter).")] = "drop",
    wav: Annotated[bool, typer.Option("--wav", help="Also write the sound alone.")] = False,
    flac: Annotated[bool, typer.Option("--flac", help="Also write the sound alone as FLAC.")] = False,
    opus: Annotated[bool, typer.Option("--opus", help="Also write the sound alone as Opus.")] = False,
    stems: Annotated[bool, typer.Option("--stems", help="Also write the sound of each label over time; their sum is the sound.")] = False,
    export: Annotated[
        str | None, typer.Option(metavar="otio,rpp,...", help="Also write projects of video, takes and cues: otio, otioz, rpp, mid, edl.")
    ] = None,
    rate: Annotated[int | None, typer.Option(metavar="44100|48000", help="Sample rate of files. [default: the model's own]")] = None,
    bits: Annotated[Bits, typer.Option(help="Bits of sound files; 32f is floating point.")] = "16",
    stereo: Annotated[bool, typer.Option("--stereo", help="Pan the sound to the place of motion.")] = False,
    lufs: Annotated[float | None, typer.Option(metavar="LUFS", help="Loudness. [default: -23]")] = None,
    true_peak: Annotated[float | None, typer.Option(metavar="dBTP", help="Limit of the true peak. [default: samples at -1 dB]")] = None,
    fade_in: Annotated[float | None, typer.Option(metavar="S", help="Seconds over which the sound begins.")] = None,
    fade_out: Annotated[float | None, typer.Option(metavar="S", help="Seconds over which it ends.")] = None,
    picture: Annotated[bool, typer.Option("--picture", help="Also draw frames and spectrogram on one time axis (PNG).")] = False,
    sidecar: Annotated[bool, typer.Option(help="Also write NAME.unsilent.json, from which the result can be reopened.")] = True,
    attention: Annotated[bool, typer.Option("--attention", help="With --picture: draw the sampler's attention too.")] = False,
    tracks: Annotated[bool, typer.Option("--tracks", help="Write all takes as tracks of one video.")] = False,
    sheet: Annotated[bool, typer.Option("--sheet", help="Also draw all takes below each other (PNG).")] = False,
    overwrite: options.Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per result instead of a table.")] = False,
) -> int:
    """Give videos their sound. Their frames are copied bit for bit."""
    given = dict(locals())
    from unsilent.errors import ParameterError
    from unsilent.generation.stems import stem_labels
    from unsilent.request import Request

    asked = {name: given[name] for name in Request.model_fields if name in given}
    asked["avoid"] = options.split(avoid)
    request = Request(**asked | read_over_time(inputs, cues, prompt_track, mute))
    if attention and (stream or not picture):
        raise ParameterError(f"--attention is {'not recorded with --stream' if stream else 'drawn into the picture; add --picture'}.")
    if stream and out is not None and (str(out) == live.PIPE or out.suffix.lower() == ".wav"):
        if rate or stereo or bits != "16":
            raise ParameterError("a stream is written as 16-bit mono at the model's rate; leave out --rate, --bits and --stereo.")
        return _stream(inputs, str(out), request, (model, device, precision, vocoder), overwrite)
    if bits == "32f" and flac:
        raise ParameterError("FLAC cannot have floating point; choose --bits 16 or 24, or --wav.")
    if stems and not stem_labels(request):
        raise ParameterError("--stems are by label, but no labels over time are given; give --prompt-track, or --cues with labels.")
    files = {"wav": wav, "picture": picture, "sidecar": sidecar, "tracks": tracks, "sheet": sheet, "overwrite": overwrite}
    files["further"] = further_suffixes(flac, opus, export)
    more = {"attention": attention, "stems": stems}
    return _make(inputs, out, request, (model, device, precision, vocoder), files, more, as_json)


def _make(
    inputs: list[Path],
    out: Path | None,
    request: "Request",
    load_as: tuple[str, ...],
    files: dict[str, Any],
    more: dict[str, bool],
    as_json: bool,
) -> int:
    """Make and write the sounds of all videos."""
    from unsilent import outputs
    from unsilent.checkpoints.folders import find_bundle, read_defaults
    from unsilent.files import require_path

    jobs = outputs.plan(inputs, out, request.seed)
    if others := outputs.passed_over(inputs, jobs, out):
        some = ", ".join(str(path) for path in others[:SOME]) + (", …" if len(others) > SOME else "")
        say(f"{len(others)} files are not videos and are left out: {some}.")
    outputs.check(jobs, takes=request.takes, original=request.original, **files)
    for path in request.files().values():
        require_path(Path(path))
    defaults = read_defaults(find_bundle(load_as[0]))
    request = request.resolve(defaults)  # raises for values that do not fit the model
    results = []
    with Bar(len(jobs)) as bar:
        from unsilent import batch  # with torch, after the bar is on the screen
        from unsilent.loading import load

        pipeline = load(*load_as)
        for result in batch.run(pipeline, jobs, request, lambda job: bar.watch(job.video.name), **more, **files):
            results.append(result)
            bar.finish(len({one.video for one in results}))
            if result.status == "failed":
                say(result.why)
            if as_json:
                typer.echo(json.dumps(batch.as_record(result, request, pipeline)))
    if results and not as_json and (len(jobs) > 1 or results[0].status == "made"):
        _print_results(results)
    if all(result.status != "failed" for result in results):
        return 0
    return 3 if len(jobs) > 1 else 2


def further_suffixes(flac: bool, opus: bool, export: str | None) -> list[str]:
    """Suffixes of what is written beside videos."""
    from unsilent.errors import ParameterError
    from unsilent.media.suffixes import PROJECT_SUFFIXES

    suffixes = [suffix for suffix, wanted in ((".flac", flac), (".opus", opus)) if wanted]
    for name in export.split(",") if export is not None else ():
        suffix = f".{name.strip().removeprefix('.').lower()}"
        if suffix not in PROJECT_SUFFIXES:
            raise ParameterError(f"--export {name!r} is unknown; choose among {', '.join(one[1:] for one in PROJECT_SUFFIXES)}.")
        from unsilent.exchange.formats import check_suffix  # PyAV

        check_suffix(Path(f"--export {name}{suffix}"))
        suffixes.append(suffix)
    return list(dict.fromkeys(suffixes))


def read_over_time(inputs: list[Path], cues: str | None, prompt_track: Path | None, mute: list[str] | None) -> dict[str, Any]:
    """Fields of the request that say what sounds when, read from files."""
    from unsilent.cues import AUTO, parse_stretch
    from unsilent.errors import ParameterError
    from unsilent.files import require_path

    fields: dict[str, Any] = {"mute": tuple(map(parse_stretch, mute))} if mute else {}
    if cues == AUTO:
        fields["cues"] = AUTO
    elif cues is not None:
        from unsilent.exchange.formats import read_cues  # PyAV
        from unsilent.exchange.timecode import frame_rate

        if len(inputs) != 1 or inputs[0].is_dir():
            raise ParameterError("--cues FILE belongs to one video; give one, or --cues auto for several.")
        require_path(inputs[0])
        fields["cues"] = tuple(read_cues(Path(cues), frame_rate(inputs[0])))
    if prompt_track is not None:
        from unsilent.exchange.tables import read_prompt_track

        require_path(prompt_track)
        fields["prompt_track"] = tuple(read_prompt_track(prompt_track))
    return fields


def _stream(inputs: list[Path], out: str, request: "Request", load_as: tuple[str, ...], overwrite: bool) -> int:
    """Write one video's sound while it is made."""
    from unsilent.checkpoints.folders import find_bundle, read_defaults
    from unsilent.errors import ParameterError
    from unsilent.files import require_path

    if len(inputs) != 1 or inputs[0].is_dir():
        raise ParameterError(f"{out} takes the stream of one video; name one, or a folder for the results.")
    require_path(inputs[0])
    live.check_out(out, overwrite)
    request.resolve(read_defaults(find_bundle(load_as[0])))  # raises for values that do not fit the model
    from unsilent.loading import load

    pipeline = load(*load_as)
    live.write(pipeline.stream(inputs[0], request), out, pipeline.clip.sample_rate)
    return 0


def _print_results(results: list) -> None:
    """A table with a row for each take; every row says how fast it was made, or that it was kept or failed."""
    ranked = any(result.score is not None for result in results)
    names = ("length", "time", "real-time factor", *(("seen", "score") if ranked else ()))
    figures = [Column(name, justify="right", no_wrap=True) for name in names]
    rows, encoded = [], dict[str, str | None]()
    files, written = Counter(result.out for result in results if result.status == "made"), Counter[Path]()
    for result in results:
        written[result.out] += 1
        track = f", track {written[result.out]}" if files[result.out] > 1 else ""
        last = ("", "", result.status)
        if result.status == "made":
            encoded.update({str(result.out): result.pictures} if result.pictures != "copied" else {})
            last = (f"{result.seconds:.2f} s", f"{result.spent_seconds:.2f} s", f"{result.real_time_factor:.2f}")
        if ranked:
            seen = next(iter(result.seen.items()), None)
            score = "" if result.score is None else f"{result.score:.2f}"
            last += (f"{seen[0]} {seen[1]:.0%}" if seen else "", score)
        rows.append((str(result.video), "" if result.status == "failed" else f"{result.out}{track}", *last))
    print_table([Column("video", overflow="fold"), Column("sound", overflow="fold"), *figures], rows)
    for out, pictures in encoded.items():
        typer.echo(f"{out}: pictures {pictures}")
